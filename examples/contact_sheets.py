"""Contact sheets of the simulator: people, artefacts, benign findings beside metastases.

Everything in them is simulated. Run with all figures, or one of them::

    python examples/contact_sheets.py --out docs/images --only people
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from osteosap.anatomy import REGIONS
from osteosap.exam import Exam
from osteosap.label_maps import resample_classes, resample_lesions
from osteosap.preprocess import PreprocessConfig, assemble_exam
from osteosap.simulate import SimulatedExam, SimulationConfig, simulate_exam
from osteosap.simulate.disease.lookalikes import LOOKALIKES
from osteosap.simulate.disease.plan import STATES
from osteosap.simulate.scanner.protocol import ArtefactConfig
from osteosap.simulate.tissue import T
from osteosap.volume import Volume

FIRST_SEED = 8000
SKELETON = ListedColormap(["black", *(region.colour for region in REGIONS)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=tuple(SHEETS), help="one of the sheets")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel edge of the body in mm")
    parser.add_argument("--people", type=int, default=8, help="columns of the sheet of people")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in (chosen.only,) if chosen.only else SHEETS:
        path = chosen.out / f"simulated_{name}.png"
        SHEETS[name](chosen).savefig(path, dpi=120, facecolor="black")
        print(path)


def people(options: argparse.Namespace) -> Figure:
    """People as the scanner of their site shows them, stitched; a column each."""
    configs = [
        SimulationConfig(
            seed=FIRST_SEED + n,
            site="abc"[n % 3],
            lesions=0 if n % 4 == 3 else None,
            body_spacing_mm=(options.spacing,) * 3,
        )
        for n in range(options.people)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        shown = list(pool.map(_acquired, configs))
    figure, rows = _sheet(5, options.people, width=2.0, height=4.4)
    for column, (person, exam) in enumerate(shown):
        t1, b1000, adc = (exam.images.channel(name) for name in ("t1", "b1000", "adc"))
        skeleton, lesions = exam.skeleton.array[0], exam.lesions.array[0]
        plane = round(float(np.argwhere(np.isin(skeleton, (2, 3)))[:, 1].mean())) + 4
        spacing = exam.images.spacing_mm
        for row, (picture, limits) in enumerate(
            (
                (t1[:, plane], (0, np.percentile(t1, 99.5))),
                (b1000[:, plane], (0, np.percentile(b1000, 99.3))),
                (adc[:, plane], (0, 2500)),
            )
        ):
            _coronal(rows[row][column], picture, spacing, vmin=limits[0], vmax=limits[1])
        _coronal(rows[3][column], skeleton.max(axis=1), spacing, cmap=SKELETON, vmin=0, vmax=9)
        top = np.percentile(b1000.max(axis=1), 98.5)
        _coronal(rows[4][column], -b1000.max(axis=1), spacing, vmin=-top, vmax=0)
        _outline(rows[4][column], lesions.max(axis=1) > 0, spacing)
        rows[0][column].set_title(person, color="white", fontsize=8)
    for row, text in enumerate(
        ("T1", "b1000", "ADC 0-2500 um2/s", "true skeleton", "b1000 projected; true lesions red")
    ):
        rows[row][0].text(0.03, 0.02, text, color="white" if row < 4 else "black", fontsize=7,
                          transform=rows[row][0].transAxes)  # fmt: skip
    return figure


def _acquired(config: SimulationConfig) -> tuple[str, Exam]:
    """Who it is, and the exam as the product sees it, with the truth on its grid."""
    simulated = simulate_exam(config)
    assembled = assemble_exam(simulated.stations, PreprocessConfig())
    grid = assembled.images.grid
    maps = [
        Volume.single(move(v.array[0], v.grid, grid), grid.affine, v.channels[0])
        for v, move in (
            (simulated.exam.skeleton, resample_classes),
            (simulated.exam.lesions, resample_lesions),
        )
    ]
    who = simulated.person
    text = (
        f"seed {config.seed}, site {config.site}\n{who['sex']}, {who['age_years']:.0f} y, "
        f"{who['height_m']:.2f} m, {who['weight_kg']:.0f} kg\n{len(simulated.lesions)} lesions"
    )
    return text, Exam(assembled.images, *maps)


def artefacts(options: argparse.Namespace) -> Figure:
    """What goes wrong in a scanner, each alone, beside an ideal one."""
    cases = list(_artefact_cases(options.spacing))
    columns = 5
    n_rows = -(-len(cases) // columns)
    figure, rows = _sheet(n_rows, columns, width=3.0, height=2.5)
    for index, (title, picture, spacing, limits) in enumerate(cases):
        axes = rows[index // columns][index % columns]
        _coronal(axes, picture, spacing, vmin=limits[0], vmax=limits[1])
        axes.set_title(title, color="white", fontsize=8)
    return figure


def _artefact_cases(
    spacing_mm: float,
) -> Iterator[tuple[str, np.ndarray, tuple[float, float], tuple[float, float]]]:
    """Title, picture, its spacing and window of every artefact."""
    off = ArtefactConfig.none().model_dump()
    quiet = {"stations": {"gain": 0.0, "shift_mm": 0.0}}

    def exam(*, implant: str = "none", site: str = "a", ideal: bool = True, **on: float):
        scanner = {"artefacts": {**off, **on}, **quiet} if ideal else {}
        return simulate_exam(
            SimulationConfig(
                seed=FIRST_SEED + 20, lesions=10, implant=implant, site=site,
                body_spacing_mm=(spacing_mm,) * 3, scanner=scanner,
            )
        )  # fmt: skip

    chest, pelvis = 3, 1
    ideal = exam()
    yield _case("no artefact: T1, a station", ideal, "t1", chest, axis=1)
    yield _case("coil bias", exam(bias=0.3, surface_bias=0.7), "t1", chest, axis=1)
    breath = exam(breathing_mm=16, breathing_ghost=0.3)
    yield _case("breathing: blur", breath, "t1", chest, axis=1)
    yield _case("breathing: ghosts of T1", breath, "t1", chest - 1, axis=2)
    yield _case("gain: three stations as they come", _gains(spacing_mm), "t1", -1, axis=1)
    yield _case("no artefact: b50", ideal, 50.0, chest, axis=2)
    field = exam(off_resonance=1.0, station_end_ppm=1.2, dephasing_ms=15.0)
    yield _case("susceptibility: distortion of EPI", field, 50.0, chest, axis=2)
    yield _case("station's end: fat comes back, displaced", field, 50.0, 0, axis=2, end=True)
    yield _case("ghost of EPI at half the field", exam(epi_ghost=0.15), 50.0, chest, axis=2)
    yield _case("eddy currents, move: b1000", exam(eddy_mm=6.0, dwi_shift_mm=4.0), 1000.0, chest,
                axis=2)  # fmt: skip
    metal = {"off_resonance": 1.0, "dephasing_ms": 15.0}
    for implant, station, axis in (("hip_prosthesis", pelvis, 1), ("spine_screws", 2, 2)):
        worn = exam(implant=implant, **metal)
        name = implant.replace("_", " ")
        yield _case(f"{name}, T1", worn, "t1", station, axis=axis, metal=True)
        yield _case(f"{name}, b50", worn, 50.0, station, axis=axis, metal=True)
    yield _case("no artefact: b1000", ideal, 1000.0, pelvis, axis=2)
    for site, what in (("a", "1.5 T TSE"), ("b", "3 T TSE"), ("c", "1.5 T gradient echo")):
        whole = exam(site=site, ideal=False)
        yield _case(f"site {site}: {what}, T1", whole, "t1", 2, axis=1)
        if site != "b":
            yield _case(f"site {site}, highest b", whole, _top(whole), 2, axis=2)


def _top(simulated: SimulatedExam) -> float:
    return max(image.b_value_s_per_mm2 or 0.0 for image in simulated.stations)


def _gains(spacing_mm: float) -> SimulatedExam:
    """Stations laid on each other without correction, as the last T1 'station'."""
    simulated = simulate_exam(
        SimulationConfig(
            seed=FIRST_SEED + 20, body_spacing_mm=(spacing_mm,) * 3,
            scanner={"stations": {"gain": 0.35}, "artefacts": ArtefactConfig.none().model_dump()},
        )
    )  # fmt: skip
    t1 = [image for image in simulated.stations if image.kind == "t1"][1:4]
    step = t1[0].volume.affine[2, 2]
    parts = []
    for below, above in itertools.pairwise(t1):
        height = round((above.volume.affine[2, 3] - below.volume.affine[2, 3]) / step)
        parts.append(below.volume.array[..., :height])
    parts.append(t1[-1].volume.array)
    joined = Volume(np.concatenate(parts, axis=3), t1[0].volume.affine, t1[0].volume.channels)
    return replace(simulated, stations=(replace(t1[0], volume=joined),))


def _case(
    title: str,
    simulated: SimulatedExam,
    kind: str | float,
    station: int,
    *,
    axis: int,
    end: bool = False,
    metal: bool = False,
) -> tuple[str, np.ndarray, tuple[float, float], tuple[float, float]]:
    """One slice of one station: coronal (axis 1) or axial (axis 2)."""
    chosen = [
        image for image in simulated.stations
        if (image.kind == "t1" if kind == "t1" else image.b_value_s_per_mm2 == kind)
    ]  # fmt: skip
    volume = chosen[min(station, len(chosen) - 1)].volume
    array = volume.array[0]
    index = array.shape[axis] // 2
    if end:
        index = array.shape[axis] - 2
    if metal:
        index = _metal_slice(simulated, volume, axis=axis)
    picture = np.take(array, index, axis=axis)
    spacing = volume.spacing_mm
    shown = (spacing[0], spacing[2] if axis == 1 else spacing[1])
    top = 99.8 if kind == "t1" else 99.3
    return title, picture, shown, (0.0, float(np.percentile(array, top)))


def _metal_slice(simulated: SimulatedExam, volume: Volume, *, axis: int) -> int:
    """The slice of a station that holds most metal."""
    metal = np.argwhere(simulated.tissue.array[0] == T.METAL)
    to_station = np.linalg.inv(volume.affine) @ simulated.tissue.affine
    places = np.rint(metal @ to_station[:3, :3].T + to_station[:3, 3]).astype(int)
    inside = ((places >= 0) & (places < volume.array.shape[1:])).all(axis=1)
    return int(np.bincount(places[inside, axis]).argmax())


def lookalikes(options: argparse.Namespace) -> Figure:
    """Every benign finding in bone, and metastases of every state, on T1, b1000 and ADC."""
    fine = min(options.spacing, 1.5) if options.spacing <= 2.0 else options.spacing
    found: dict[str, tuple[SimulatedExam, tuple[float, float, float]]] = {}
    wanted = {kind.name for kind in LOOKALIKES} | {f"METASTASIS, {state}" for state in STATES}
    for seed in range(FIRST_SEED + 40, FIRST_SEED + 60):
        if wanted <= found.keys():
            break
        config = SimulationConfig(
            seed=seed, lesions=40, lookalikes=8.0, age_years=85.0, body_spacing_mm=(fine,) * 3
        )
        simulated = simulate_exam(config, acquire=False)
        ranked = sorted(simulated.benign, key=lambda b: -b.volume_ml)
        for one in ranked:
            found.setdefault(one.kind, (simulated, one.centre_mm))
        spine_first = sorted(
            simulated.lesions, key=lambda x: (x.site != "spine", abs(x.volume_ml - 2.5))
        )
        for lesion in spine_first:
            found.setdefault(f"METASTASIS, {lesion.state}", (simulated, lesion.centre_mm))
    names = sorted(found, key=lambda name: (name.startswith("METASTASIS"), name))
    per_row = 3
    n_rows = -(-len(names) // per_row)
    figure, rows = _sheet(n_rows, per_row * 3, width=1.5, height=1.75)
    for index, name in enumerate(names):
        simulated, centre = found[name]
        for column, channel in enumerate(("t1", "b1000", "adc")):
            axes = rows[index // per_row][(index % per_row) * 3 + column]
            _close_up(axes, simulated, channel, centre)
            if column == 1:
                colour = "#ff6688" if name.startswith("METASTASIS") else "white"
                axes.set_title(name, color=colour, fontsize=7)
    return figure


def _close_up(
    axes: Axes, simulated: SimulatedExam, channel: str, centre_mm: tuple[float, float, float]
) -> None:
    """A sagittal square of 90 mm around a point."""
    images = simulated.exam.images
    image, spacing = images.channel(channel), images.spacing_mm
    place = np.linalg.inv(images.affine) @ [*centre_mm, 1.0]
    i, j, k = (round(float(v)) for v in place[:3])
    half = [round(45.0 / s) for s in spacing]
    window = [slice(max(c - h, 0), c + h) for c, h in zip((j, k), half[1:], strict=True)]
    picture = image[i, window[0], window[1]]
    limits = {"t1": (0, 1100), "b1000": (0, 260), "adc": (0, 2500)}[channel]
    _coronal(axes, picture[::-1], (spacing[1], spacing[2]), vmin=limits[0], vmax=limits[1])


def _sheet(n_rows: int, n_columns: int, *, width: float, height: float):
    """A black figure marked 'simulated', and its axes as rows."""
    figure = Figure(figsize=(n_columns * width, n_rows * height), facecolor="black")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.965, wspace=0.02, hspace=0.09)
    figure.text(0.006, 0.994, "simulated, no person", color="white", fontsize=9, va="top")
    for axes in grid.ravel():
        axes.set_axis_off()
    return figure, grid


def _coronal(
    axes: Axes, picture: np.ndarray, spacing: Sequence[float], *, cmap="gray", **limits: float
) -> None:
    """A slice (horizontal, vertical) in radiological display: the patient's right at the left."""
    aspect = spacing[-1] / spacing[0]
    axes.imshow(picture[::-1].T, origin="lower", cmap=cmap, aspect=aspect, **limits)


def _outline(axes: Axes, mask: np.ndarray, spacing: Sequence[float]) -> None:
    if mask.any():
        axes.contour(mask[::-1].T, levels=[0.5], colors="#e4003a", linewidths=0.7)
    axes.set_aspect(spacing[-1] / spacing[0])


SHEETS: dict[str, Callable[[float, int], Figure]] = {
    "people": people,
    "artefacts": artefacts,
    "lookalikes": lookalikes,
}


if __name__ == "__main__":
    main()
