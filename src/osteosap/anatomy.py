"""One table of the skeleton: class ids, names, MET-RADS-P sites, codes, colours.

The nine classes and their order are those of the paper (Wuts et al. 2026); the ids are fixed.
Codes are SNOMED CT as listed in DICOM PS3.16. MET-RADS-P sites: Padhani et al. 2017
(doi 10.1016/j.eururo.2016.05.033).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["N_CLASSES", "REGIONS", "UNASSIGNED", "Region", "region_of"]


@dataclass(frozen=True)
class Region:
    """One bone class of the skeleton map."""

    id: int
    name: str
    title: str
    met_rads_site: str
    snomed_code: str
    snomed_meaning: str
    colour: str


REGIONS: tuple[Region, ...] = (
    Region(
        1, "cervical_spine", "Cervical spine", "cervical spine",
        "122494005", "Cervical spine", "#4e79a7",
    ),
    Region(
        2, "thoracic_spine", "Thoracic spine", "dorsal spine",
        "122495006", "Thoracic spine", "#59a14f",
    ),
    Region(
        3, "lumbar_spine", "Lumbar spine", "lumbosacral spine",
        "122496007", "Lumbar spine", "#f28e2b",
    ),
    Region(4, "pelvis", "Pelvis with sacrum", "pelvis", "816092008", "Pelvis", "#b07aa1"),
    Region(5, "femur", "Femur", "limbs", "71341001", "Femur", "#edc948"),
    Region(6, "humerus", "Humerus", "limbs", "85050009", "Humerus", "#76b7b2"),
    Region(7, "scapula", "Scapula", "thorax", "79601000", "Scapula", "#ff9da7"),
    Region(8, "clavicle", "Clavicle", "thorax", "51299004", "Clavicle", "#9c755f"),
    Region(9, "sternum", "Sternum", "thorax", "56873002", "Sternum", "#e15759"),
)  # fmt: skip

N_CLASSES = len(REGIONS) + 1
"""Classes of the skeleton map, background (0) included."""

UNASSIGNED = "unassigned"
"""Region of a lesion in a bone that has no class (rib, skull): never guessed."""

_BY_ID = {region.id: region for region in REGIONS}


def region_of(class_id: int) -> Region | None:
    """The region of a class id; None for background."""
    return _BY_ID.get(int(class_id))
