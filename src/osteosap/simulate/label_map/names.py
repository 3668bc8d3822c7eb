"""What the names of a label map mean: tissue, bone class, lesion site, layers.

Known are the names of the BodyParts3D atlas used in development and those of TotalSegmentator's
``total_mr``, ``vertebrae_mr``, ``total``, ``body_mr``, ``tissue_types_mr``, ``appendicular_bones``,
and parts of ``head_glands_cavities`` and ``thigh_shoulder_muscles`` [1]_. Upper and lower case,
spaces and hyphens do not matter; a side may follow as ``_left`` or ``_right``.

References
----------
.. [1] Akinci D'Antonoli et al. 2025, Radiology 314:e241613 (doi 10.1148/radiol.241613).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from osteosap.simulate.tissue import T

__all__ = ["BONES", "ENVELOPES", "TISSUES_OF", "VERTEBRAE", "Meaning", "meaning_of"]

VERTEBRAE = (
    *(f"C{n}" for n in range(1, 8)),
    *(f"T{n}" for n in range(1, 13)),
    *(f"L{n}" for n in range(1, 6)),
)
"""Places of the spine, top to bottom."""


@dataclass(frozen=True)
class Meaning:
    """What one label is.

    Parameters
    ----------
    tissue
        Tissue of its voxels, or of its inside where it has a wall or a core.
    site
        Lesion site of a bone ("spine", "pelvis", "rib", ...); empty for everything else.
    class_id
        Skeleton class 1 to 9 of a bone, else 0.
    place
        Name of the bone as a place: "T7", "rib 4 left"; of several bones in one label their stem.
    side
        "left", "right", or empty where one label holds both or there is one only.
    paired
        Whether the label holds a left and a right bone.
    wall
        Tissue and thickness (mm) of an outer layer.
    core
        Tissue and depth (mm) from which on the inside is another one.
    envelope
        "skin": all of the body that has no other label. "loose": the same, but drawn around
        modelled parts, so that it lacks muscles and must be filled out.
    """

    tissue: T
    site: str = ""
    class_id: int = 0
    place: str = ""
    side: str = ""
    paired: bool = False
    wall: tuple[T, float] | None = None
    core: tuple[T, float] | None = None
    envelope: str = ""


def _bone(site: str, class_id: int, place: str, *, paired: bool = False) -> Meaning:
    return Meaning(T.MARROW, site, class_id, place, paired=paired)


BONES: dict[str, Meaning] = {
    "cervical_spine": _bone("spine", 1, "cervical"),
    "thoracic_spine": _bone("spine", 2, "thoracic"),
    "lumbar_spine": _bone("spine", 3, "lumbar"),
    "vertebrae": _bone("spine", 0, "spine"),
    "spine": _bone("spine", 0, "spine"),
    "sacrum": _bone("pelvis", 4, "sacrum"),
    "sacrum_coccyx": _bone("pelvis", 4, "sacrum"),
    "vertebrae_s1": _bone("pelvis", 4, "sacrum"),
    "pelvis_hip_bones": _bone("pelvis", 4, "hip bone", paired=True),
    "hip": _bone("pelvis", 4, "hip bone", paired=True),
    "hips": _bone("pelvis", 4, "hip bone", paired=True),
    "pelvis": _bone("pelvis", 4, "hip bone", paired=True),
    "femur": _bone("femur", 5, "femur", paired=True),
    "femurs": _bone("femur", 5, "femur", paired=True),
    "humerus": _bone("humerus", 6, "humerus", paired=True),
    "humeri": _bone("humerus", 6, "humerus", paired=True),
    "scapula": _bone("scapula", 7, "scapula", paired=True),
    "scapulae": _bone("scapula", 7, "scapula", paired=True),
    "clavicula": _bone("clavicle", 8, "clavicle", paired=True),
    "clavicle": _bone("clavicle", 8, "clavicle", paired=True),
    "clavicles": _bone("clavicle", 8, "clavicle", paired=True),
    "sternum": _bone("sternum", 9, "sternum"),
    "ribs": _bone("rib", 0, "rib", paired=True),
    "skull": _bone("skull", 0, "skull"),
    "mandible": _bone("skull", 0, "mandible"),
    "hyoid": _bone("skull", 0, "hyoid"),
    "forearm_bones": _bone("forearm", 0, "forearm", paired=True),
    "ulna": _bone("forearm", 0, "ulna", paired=True),
    "radius": _bone("forearm", 0, "radius", paired=True),
    "hand_bones": _bone("hand", 0, "hand", paired=True),
    "carpal": _bone("hand", 0, "hand", paired=True),
    "metacarpal": _bone("hand", 0, "hand", paired=True),
    "phalanges_hand": _bone("hand", 0, "hand", paired=True),
    "lower_leg_bones": _bone("leg", 0, "lower leg", paired=True),
    "tibia": _bone("leg", 0, "tibia", paired=True),
    "fibula": _bone("leg", 0, "fibula", paired=True),
    "patella": _bone("leg", 0, "patella", paired=True),
    "foot_bones": _bone("leg", 0, "foot", paired=True),
    "tarsal": _bone("leg", 0, "foot", paired=True),
    "metatarsal": _bone("leg", 0, "foot", paired=True),
    "phalanges_feet": _bone("leg", 0, "foot", paired=True),
}
"""Bones by name; ``vertebrae_L1`` and ``rib_left_4`` are known besides."""

ENVELOPES: dict[str, str] = {
    "rest_of_body_derived_envelope": "loose",
    "body": "skin", "body_trunc": "skin", "body_trunk": "skin", "body_extremities": "skin",
    "skin": "skin",
}  # fmt: skip
"""Labels that hold what is left of the body."""

TISSUES_OF: dict[T, tuple[str, ...]] = {
    T.CARTILAGE: ("costal_cartilages", "thyroid_cartilage", "cricoid_cartilage"),
    T.DISC: ("intervertebral_discs", "discs"),
    T.CSF: ("thecal_sac", "thecal_sac_derived", "spinal_canal", "subarachnoid_space", "ventricle"),
    T.CORD: ("spinal_cord", "spinal_cord_derived"),
    T.BRAIN_WHITE: ("brain",),
    T.LUNG: (
        "lung", "lungs", "lung_upper_lobe", "lung_middle_lobe", "lung_lower_lobe",
    ),
    T.HEART: ("heart", "heart_myocardium", "atrial_appendage"),
    T.BLOOD: (
        "aorta", "arteries", "iliac_artery", "pulmonary_artery", "pulmonary_vein",
        "brachiocephalic_trunk", "subclavian_artery", "common_carotid_artery",
        "internal_carotid_artery", "heart_atrium", "heart_ventricle",
    ),
    T.VEIN: (
        "veins", "iliac_vena", "iliac_vein", "inferior_vena_cava", "superior_vena_cava",
        "portal_vein_and_splenic_vein", "brachiocephalic_vein", "internal_jugular_vein",
    ),
    T.LIVER: ("liver",),
    T.SPLEEN: ("spleen",),
    T.KIDNEY: ("kidney", "kidneys"),
    T.ADRENAL: ("adrenals", "adrenal_gland"),
    T.PANCREAS: ("pancreas",),
    T.BILE: ("gallbladder",),
    T.STOMACH: ("stomach",),
    T.BOWEL_CONTENT: ("small_intestine", "small_bowel", "duodenum", "large_intestine", "colon"),
    T.BOWEL_WALL: ("esophagus", "oesophagus"),
    T.URINE: ("urinary_bladder", "bladder", "kidney_cyst"),
    T.PROSTATE: ("prostate",),
    T.SEMINAL_VESICLE: ("seminal_vesicles",),
    T.TESTIS: ("testes", "testis"),
    T.PENIS: ("penis",),
    T.UTERUS: ("uterus",),
    T.OVARY: ("ovary", "ovaries"),
    T.BREAST: ("breast", "breasts"),
    T.GAS: (
        "trachea", "trachea_larynx", "larynx_air", "nasopharynx", "oropharynx", "hypopharynx",
        "nasal_cavity", "auditory_canal",
    ),
    T.SALIVARY: ("salivary_glands", "parotid_gland", "submandibular_gland"),
    T.THYROID: ("thyroid_gland", "thyroid"),
    T.EYE: ("eyes", "eye", "eyeball"),
    T.NERVE: ("optic_nerve",),
    T.FAT: ("subcutaneous_fat", "torso_fat", "intermuscular_fat", "fat"),
    T.MUSCLE: (
        "muscle", "muscles", "skeletal_muscle", "autochthon", "iliopsoas", "gluteus_maximus",
        "gluteus_medius", "gluteus_minimus", "quadriceps_femoris", "thigh_medial_compartment",
        "thigh_posterior_compartment", "sartorius", "deltoid", "supraspinatus", "infraspinatus",
        "subscapularis", "coracobrachial", "trapezius", "pectoralis_minor", "serratus_anterior",
        "teres_major", "triceps_brachii", "tongue", "masseter",
    ),
}  # fmt: skip
"""Names of everything that is no bone, by tissue."""

WALLS: dict[T, tuple[T, float]] = {
    T.BOWEL_CONTENT: (T.BOWEL_WALL, 2.5),
    T.STOMACH: (T.BOWEL_WALL, 3.5),
    T.URINE: (T.MUSCLE, 3.0),
    T.GAS: (T.CARTILAGE, 1.5),
}
"""Outer layers, tissue and mm (ours)."""

CORES: dict[T, tuple[T, float]] = {
    T.KIDNEY: (T.FAT, 13.0),  # renal sinus
    T.HEART: (T.BLOOD, 11.0),  # the chambers
}
"""Tissue from a depth in mm on (ours)."""

_NAMED = {name: tissue for tissue, names in TISSUES_OF.items() for name in names}
_VERTEBRA = re.compile(r"(?:vertebrae?_)?([ctl])_?(\d+)")
_RIB = re.compile(r"rib_(left|right)_([1-9]|1[0-2])")
_SIDE = re.compile(r"(.+)_(left|right)")


def meaning_of(name: str) -> Meaning | None:
    """What a name means; None where it is unknown."""
    key = re.sub(r"[\s\-]+", "_", name.strip().lower())
    if found := _VERTEBRA.fullmatch(key):
        place = f"{found[1].upper()}{int(found[2])}"
        if place in VERTEBRAE:
            return _bone("spine", "CTL".index(place[0]) + 1, place)
    if found := _RIB.fullmatch(key):
        return replace(_bone("rib", 0, f"rib {int(found[2])} {found[1]}"), side=found[1])
    if known := _plain(key):
        return known
    sided = _SIDE.fullmatch(key)
    known = _plain(sided[1]) if sided else None
    if sided is None or known is None:
        return None
    if known.site:
        return replace(known, place=f"{known.place} {sided[2]}", side=sided[2], paired=False)
    return known


def _plain(key: str) -> Meaning | None:
    if key in BONES:
        return BONES[key]
    if key in ENVELOPES:
        return Meaning(T.FAT, envelope=ENVELOPES[key])
    if key in _NAMED:
        tissue = _NAMED[key]
        return Meaning(tissue, wall=WALLS.get(tissue), core=CORES.get(tissue))
    return None
