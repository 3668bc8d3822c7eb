"""Simulated people, images and disease against what papers describe.

Measures bodies, contrasts, ADC, marrow, disease and benign findings of simulated people, and sets
every number against its sourced range in ``realism_sources.yaml``. Then tunes a detector that knows
no anatomy (a threshold on b1000 and one on T1, connected components) on ten patients and scores it
on twenty others: the task should not be solvable so. Prints the table and writes ``realism.json``.

A row that asks "of: person" compares the median person, and shows the range over people; one that
asks "of: cohort" compares the cohort's number. The table says of every range whether it is the
source's own, widened by us around its number, or derived from it, and whether the source was read
or is recalled. Rows of the sources for which nothing is measured are listed at the end.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from trivial_detector import score_trivial_detector

from osteosap.anatomy import REGIONS
from osteosap.manifest import software_versions, write_json
from osteosap.simulate import SimulationConfig, simulate_exam
from osteosap.simulate.exam import simulate_scene
from osteosap.simulate.tissue import T

SOURCES = Path(__file__).with_name("realism_sources.yaml")
FIRST_PERSON, FIRST_PATIENT, FIRST_DETECTOR = 6000, 6500, 7000

_ONE_MAN = "the range is ours around one reference man; the man of the atlas has {} mL"
EXPLAINED: dict[str, str] = {
    "volume_cervical_spine_man": _ONE_MAN.format(77),
    "volume_thoracic_spine_man": _ONE_MAN.format(336),
    "volume_lumbar_spine_man": _ONE_MAN.format(243),
    "volume_scapula_man": _ONE_MAN.format(156),
    "volume_cervical_spine_woman": "as for men, whose range was scaled by the ratio of masses",
    "volume_thoracic_spine_woman": "as for men, whose range was scaled by the ratio of masses",
    "volume_lumbar_spine_woman": "as for men, whose range was scaled by the ratio of masses",
    "volume_scapula_woman": "as for men, whose range was scaled by the ratio of masses",
    "volume_sternum_woman": "the range is a reference man's 64 mL, scaled; CT of men gives 54-102",
    "adc_metastasis_responding": "the range is a threshold for clear response; lesions here are "
    "treated in part, and small ones mix with the marrow at their edge",
    "modic_people_no_pain": "the range is of people of any age; these patients are 70 on average",
    "benign_bone_lesion_prostate_mri": "whole femurs are counted, a prostate MRI shows less",
}
"""Why a number lies outside its range, where it does."""


@dataclass(frozen=True)
class Job:
    """One simulated person to measure: what of, and the settings."""

    kind: str
    config: SimulationConfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, default=20, help="healthy, half of them women")
    parser.add_argument("--patients", type=int, default=60, help="for the disease")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--no-detector", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for number, values in enumerate(pool.map(measure, jobs(options)), start=1):
            print(f"\r{number} people measured", end="", file=sys.stderr, flush=True)
            for name, value in values.items():
                found.setdefault(name, []).append(value)
    print(file=sys.stderr)
    sources = yaml.safe_load(SOURCES.read_text())
    compared = [(source, compare(source, found)) for source in sources]
    rows = [row for _, row in compared if row is not None]
    missing = [s["quantity"] for s, row in compared if row is None and s["use"] == "check"]
    content = {
        "what": "simulated people, images and disease against sourced ranges",
        "simulated": True,
        "people": options.people,
        "patients": options.patients,
        "versions": software_versions(),
        "rows": rows,
        "not_measured": missing,
    }
    print(markdown(rows))
    print(f"\nRows to check for which nothing is measured ({len(missing)}): {', '.join(missing)}")
    write_json(options.out / "realism.json", content)  # what follows takes longer
    if not options.no_detector:
        content["trivial_detector"] = score_trivial_detector(
            options.out / "detector", first_seed=FIRST_DETECTOR, processes=options.processes
        )
        print(detector_text(content["trivial_detector"]))
    write_json(options.out / "realism.json", content)
    outside = [r for r in rows if not r["inside"] and r["quantity"] not in EXPLAINED]
    return 1 if outside else 0


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Healthy people for body and images, patients for the disease."""
    for n in range(options.people):
        sex = "male" if n % 2 == 0 else "female"
        yield Job(
            "person",
            SimulationConfig(
                seed=FIRST_PERSON + n, lesions=0, sex=sex, body_spacing_mm=(2.5, 2.5, 2.5)
            ),
        )
    for n in range(options.patients):
        yield Job(
            "image" if n < 10 else "patient",
            SimulationConfig(seed=FIRST_PATIENT + n),
        )


def measure(job: Job) -> dict[str, float]:
    """All numbers of one person."""
    if job.kind == "person":
        return dict(person_numbers(job.config))
    numbers = dict(disease_numbers(job.config))
    if job.kind == "image":
        numbers |= dict(image_numbers(job.config))
    return numbers


def person_numbers(config: SimulationConfig) -> Iterator[tuple[str, float]]:
    """Volumes, cortex, marrow of one healthy person."""
    body = simulate_scene(config).body
    person = body.person
    who = "man" if person.sex == "male" else "woman"
    ml = body.grid.voxel_volume_ml
    classes = np.bincount(body.skeleton.ravel(), minlength=10) * ml
    cortex = np.bincount(body.skeleton.ravel(), weights=body.cortex.ravel(), minlength=10) * ml
    for region in REGIONS:
        yield f"volume_{region.name}_{who}", classes[region.id]
        yield f"cortical_share_{region.name}", cortex[region.id] / classes[region.id]
    for site, key in (("rib", "rib"), ("skull", "skull")):
        inside = np.isin(body.bone, [i + 1 for i, b in enumerate(body.bones) if b.site == site])
        yield f"cortical_share_{key}", float(body.cortex[inside].mean())
    by_bone = np.bincount(body.bone.ravel(), minlength=len(body.bones) + 1)[1:] * ml
    named = {bone.name: volume for bone, volume in zip(body.bones, by_bone, strict=True)}
    ribs = [volume for name, volume in named.items() if name.startswith("rib ")]
    yield "volume_ribs_" + who, sum(ribs)
    if who == "man":
        for key, name in (("sacrum", "sacrum"), ("l3", "L3"), ("t7", "T7")):
            yield f"volume_{key}", named[name]
        yield "volume_rib7", named["rib 7 right"]
    yield f"height_{who}", person.height_m * 100
    if who == "man":
        yield "mass_man", person.weight_kg
        if person.age_years >= 60:
            yield "bmi_old_man", person.weight_kg / person.height_m**2
    tissue = np.bincount(body.tissue.ravel(), minlength=len(T)) * ml
    organs = {
        "volume_liver": (T.LIVER,), "volume_spleen": (T.SPLEEN,), "volume_kidneys": (T.KIDNEY,),
        "volume_brain": (T.BRAIN_GREY, T.BRAIN_WHITE), "volume_testes": (T.TESTIS,),
    }  # fmt: skip
    for key, ids in organs.items():
        if who == "man":
            yield key, tissue[list(ids)].sum()
    if who == "man" and person.age_years > 60:
        yield "volume_prostate_old_man", tissue[T.PROSTATE]
    if who == "woman" and person.age_years < 50:
        yield "volume_uterus", tissue[T.UTERUS] + tissue[T.ENDOMETRIUM]
    yield from marrow_numbers(body, who)


def marrow_numbers(body, who: str) -> Iterator[tuple[str, float]]:
    """Fat fraction of marrow by site and age."""
    marrow = body.tissue == T.MARROW
    age = body.person.age_years
    lumbar = float(body.marrow_fat[marrow & (body.skeleton == 3)].mean())
    if who == "man" and 20 <= age < 40:
        yield "pdff_lumbar_man_20s" if age < 30 else "pdff_lumbar_man_30s", lumbar
    if age >= 60:
        yield f"pdff_lumbar_old_{who}", lumbar
    hips = [i + 1 for i, b in enumerate(body.bones) if b.name.startswith("hip")]
    yield "pdff_ilium", float(body.marrow_fat[marrow & np.isin(body.bone, hips)].mean())
    femur = np.argwhere(marrow & (body.skeleton == 5))
    depth = (femur[:, 2].max() - femur[:, 2]) * body.grid.spacing_mm[2]
    values = body.marrow_fat[tuple(femur.T)]
    yield "pdff_femur_epiphysis", float(values[depth < 25].mean())
    yield "pdff_femur_intertrochanteric", float(values[(depth > 45) & (depth < 80)].mean())
    yield "pdff_shaft", float(values[(depth > 180) & (depth < 300)].mean())


def image_numbers(config: SimulationConfig) -> Iterator[tuple[str, float]]:
    """Contrast ratios and ADC of one patient, on images without noise."""
    simulated = simulate_exam(config)
    tissue, skeleton = simulated.tissue.array[0], simulated.exam.skeleton.array[0]
    images = simulated.exam.images
    lumbar = (tissue == T.MARROW) & (skeleton == 3)

    def medians(channel: str) -> dict[str, float]:
        image = images.channel(channel)
        named = {t.name: float(np.median(image[tissue == t])) for t in T if (tissue == t).any()}
        named["LUMBAR"] = float(np.median(image[lumbar]))
        named["RED"] = float(
            np.median(image[(tissue == T.MARROW) & np.isin(skeleton, (1, 2, 3, 4, 9))])
        )
        viable = [one.id for one in simulated.lesions if one.state == "viable"]
        mask = np.isin(simulated.exam.lesions.array[0], viable)
        named["VIABLE"] = float(np.median(image[mask])) if mask.any() else np.nan
        return named

    t1, b1000, adc = (medians(name) for name in ("t1", "b1000", "adc"))
    ratios = {
        "t1_metastasis_over_marrow": (t1, "VIABLE", "LUMBAR"),
        "t1_metastasis_over_muscle": (t1, "VIABLE", "MUSCLE"),
        "t1_marrow_over_muscle": (t1, "LUMBAR", "MUSCLE"),
        "t1_marrow_over_csf": (t1, "LUMBAR", "CSF"),
        "t1_fat_over_muscle": (t1, "FAT", "MUSCLE"),
        "t1_disc_over_muscle": (t1, "DISC", "MUSCLE"),
        "t1_spleen_over_muscle": (t1, "SPLEEN", "MUSCLE"),
        "t1_liver_over_spleen": (t1, "LIVER", "SPLEEN"),
        "t1_white_over_grey": (t1, "BRAIN_WHITE", "BRAIN_GREY"),
        "b900_marrow_over_muscle": (b1000, "RED", "MUSCLE"),
        "b1000_lesion_over_muscle": (b1000, "VIABLE", "MUSCLE"),
        "b1000_lesion_over_marrow": (b1000, "VIABLE", "RED"),
        "b1000_spleen_over_muscle": (b1000, "SPLEEN", "MUSCLE"),
        "b1000_brain_over_muscle": (b1000, "BRAIN_WHITE", "MUSCLE"),
        "b1000_kidney_over_muscle": (b1000, "KIDNEY", "MUSCLE"),
        "b1000_testis_over_muscle": (b1000, "TESTIS", "MUSCLE"),
        "b1000_node_over_muscle": (b1000, "NODE", "MUSCLE"),
        "b1000_fat_over_muscle": (b1000, "FAT", "MUSCLE"),
    }
    for key, (values, above, below) in ratios.items():
        if np.isfinite(values.get(above, np.nan)) and values.get(below):
            yield key, values[above] / values[below]
    tissues = {
        "adc_marrow_global": "RED", "adc_marrow_lumbar_30_88": "LUMBAR", "adc_muscle": "MUSCLE",
        "adc_spleen": "SPLEEN", "adc_liver": "LIVER", "adc_kidney": "KIDNEY",
        "adc_pancreas": "PANCREAS", "adc_prostate_pz": "PROSTATE", "adc_testis": "TESTIS",
        "adc_white_matter": "BRAIN_WHITE", "adc_grey_matter": "BRAIN_GREY", "adc_cord": "CORD",
        "adc_csf": "CSF", "adc_disc": "DISC", "adc_node_benign": "NODE",
        "adc_haemangioma_typical": "HAEMANGIOMA",
        "adc_modic1": "ENDPLATE_OEDEMA", "adc_modic2": "ENDPLATE_FAT",
        "adc_red_marrow_hyperplasia": "RED_PATCH", "adc_metastasis_untreated": "VIABLE",
    }  # fmt: skip
    for key, name in tissues.items():
        if np.isfinite(adc.get(name, np.nan)):
            yield key, adc[name]
    for state, key in (("treated", "responding"), ("sclerotic", "sclerotic")):
        values = [one.adc_um2_per_s for one in simulated.lesions if one.state == state]
        if values:
            yield f"adc_metastasis_{key}", float(np.median(values))


def disease_numbers(config: SimulationConfig) -> Iterator[tuple[str, float]]:
    """What one patient has; lists of lesions are told apart from numbers of people by ``*``."""
    scene = simulate_scene(config)
    lesions, benign = scene.disease.truth, scene.disease.benign
    yield "*lesions", float(len(lesions))
    for one in lesions:
        # several values under one name: a patient's dictionary holds each lesion under its own
        yield f"*volume {config.seed} {one.id}", one.volume_ml
        yield f"*site {one.site} {one.bone} {config.seed} {one.id}", 1.0
    yield "tumour_volume_hormone_naive", sum(one.volume_ml for one in lesions)
    body_ml = np.count_nonzero(scene.body.tissue) * scene.body.grid.voxel_volume_ml
    yield "prevalence_body", sum(one.volume_ml for one in lesions) / body_ml
    kinds = [one.kind for one in benign]
    yield "haemangioma_people", any("haemangioma" in kind for kind in kinds)
    affected = {one.bone for one in benign if "haemangioma" in one.kind}
    yield "haemangioma_vertebrae", len(affected) / 24
    bone_ml = np.count_nonzero(np.isin(scene.body.skeleton, (1, 2, 3, 4, 9)))
    bone_ml *= scene.body.grid.voxel_volume_ml
    yield "burden_over_bone_volume", sum(one.volume_ml for one in lesions) / bone_ml
    if len(lesions) <= 3:
        axial = [one.site in ("spine", "pelvis") for one in lesions]
        yield "site_few_spine_pelvis", float(np.mean(axial)) if axial else np.nan
    broken = np.unique(scene.disease.lesions[(scene.disease.lesions > 0) & (scene.body.bone == 0)])
    yield "*broken", float(len(broken))
    yield "bone_island_people", "bone island" in kinds
    yield "modic_people_no_pain", any("Modic" in kind for kind in kinds)
    yield "schmorl_people", "Schmorl node" in kinds
    yield "rib_fracture_people", any("rib fracture" in kind for kind in kinds)
    if scene.body.person.age_years >= 70:
        yield "vertebral_fracture_70_79", "healed vertebral fracture" in kinds
    pelvic = [one for one in benign if one.bone.startswith(("hip", "sacrum", "femur"))]
    yield "benign_bone_lesion_prostate_mri", bool(pelvic)


def cohort_number(key: str, found: dict[str, list[float]]) -> float | None:
    """A number that only the whole cohort has; None where the key is none of these."""
    if "*lesions" not in found:
        return None
    counts = np.array(found["*lesions"])
    volumes = np.array([v[0] for k, v in found.items() if k.startswith("*volume")] or [np.nan])
    sites = [k.split()[1:3] for k in found if k.startswith("*site")]
    share = lambda name: float(np.mean([site == name for site, _ in sites]))  # noqa: E731
    level = lambda letter: float(np.mean([bone.startswith(letter) for _, bone in sites]))  # noqa: E731
    numbers = {
        "lesion_volume_median": np.median(volumes),
        "lesion_share_ge_1ml": (volumes >= 1.0).mean(),
        "lesion_volume_sigma_log": np.log(volumes).std(),
        "patients_count_1_2": (counts <= 2).mean(),
        "patients_count_3_10": ((counts > 2) & (counts <= 10)).mean(),
        "patients_count_gt_10": (counts > 10).mean(),
        "lesions_per_patient_mean": counts.mean(),
        "lesions_per_patient_median": np.median(counts),
        "lesion_share_extraosseous": sum(found["*broken"]) / max(counts.sum(), 1),
        "site_share_ribs": share("rib"),
        "site_share_thoracic_spine": level("T"),
        "site_share_lumbar_spine": level("L"),
        "site_share_ilium": level("hip"),
    }
    return float(numbers[key]) if key in numbers else None


def compare(source: dict, found: dict[str, list[float]]) -> dict | None:
    """One row of the table, or None for a quantity that is not measured here."""
    key = source["quantity"]
    cohort = cohort_number(key, found)
    values = np.array(found.get(key, []), dtype=float)
    if cohort is None and values.size == 0:
        return None
    mean_of_people = source["of"] == "cohort" and source["unit"] in ("fraction", "kg", "ratio")
    value = cohort
    if value is None:
        value = float(values.mean() if mean_of_people else np.median(values))
    inside = source["low"] <= value <= source["high"]
    return {
        "quantity": key,
        "what": source["what"],
        "unit": source["unit"],
        "of": source["of"],
        "simulated": value,
        "simulated_range": None if values.size < 2 else [float(values.min()), float(values.max())],
        "n": int(values.size) or None,
        "sourced_range": [source["low"], source["high"]],
        "source": source["source"],
        "doi": source.get("doi", ""),
        "basis": source["basis"],
        "confidence": source["confidence"],
        "inside": bool(inside),
    }


def markdown(rows: list[dict]) -> str:
    lines = [
        "| what | simulated, median or share (range, n) | range | basis | source | inside |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        spread = ""
        if row["simulated_range"] and row["of"] == "person":
            low, high = row["simulated_range"]
            spread = f" ({low:.3g}-{high:.3g}, n={row['n']})"
        elif row["n"]:
            spread = f" (n={row['n']})"
        unit = "" if row["unit"] in ("ratio", "fraction", "1", "count") else f" {row['unit']}"
        low, high = row["sourced_range"]
        source = row["source"] + (f", doi {row['doi']}" if row["doi"] else "")
        source += "" if row["confidence"] == "verified" else " (recalled)"
        verdict = (
            "yes" if row["inside"] else f"no: {EXPLAINED.get(row['quantity'], 'NOT EXPLAINED')}"
        )
        lines.append(
            f"| {row['what']} | {row['simulated']:.3g}{unit}{spread} | {low:g}-{high:g} | "
            f"{row['basis']} | {source} | {verdict} |"
        )
    inside = sum(row["inside"] for row in rows)
    basis = Counter(row["basis"] for row in rows)
    counts = ", ".join(f"{n} {name}" for name, n in basis.most_common())
    return "\n".join([*lines, "", f"{inside} of {len(rows)} rows inside their range ({counts})."])


def detector_text(score: dict) -> str:
    fp = score["fp_at_half"]
    half = "which no threshold reaches" if fp is None else f"{fp:.1f} false positives per exam"
    return (
        f"A detector without anatomy, tuned on {score['n_tuning']} simulated patients, on "
        f"{score['n_test']} others: at its operating point sensitivity "
        f"{score['sensitivity']:.2f} at {score['fp_per_exam']:.1f} false positives per exam; "
        f"at sensitivity 0.5, {half}."
    )


if __name__ == "__main__":
    sys.exit(main())
