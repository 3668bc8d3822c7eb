r"""What each vendor's scanners write: series, names, image types and private attributes.

Every dialect is that of a classic (single-frame) export. Private attributes stand under the
vendors' creators, where readers look for them; the manufacturer is the simulator in every dialect.
Siemens follows real headers (syngo MR B17) in image types, sequence names and order of images;
GE and Philips follow what users and the vendors' staff report of theirs [1]_ [2]_ [3]_ [4]_.
Where those say nothing, a name or a type is ours.

References
----------
.. [1] GE, b-values packed as 1000001000\8\0\0: github.com/rordenlab/dcm2niix/issues/149
.. [2] GE, diffusion direction (0021,105A): github.com/rordenlab/dcm2niix/issues/690
.. [3] Philips, rescale slope and scale slope: Chenevert et al. 2014, Transl Oncol 7(1):65-71,
       doi 10.1593/tlo.13811
.. [4] Philips, directionality: github.com/rordenlab/dcm2niix, Philips/README.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from osteosap.dicom.b_values import GE_CREATOR, PHILIPS_CREATOR, SIEMENS_CREATOR
from osteosap.dicom.frames import Frames, decimals, plane_of
from osteosap.dicom.headers import SIMULATOR

__all__ = ["DIALECTS", "Dialect", "DialectName", "Protocol"]

DialectName = Literal["siemens", "philips", "ge"]

_GE_OFFSET = 1_000_000_000
"""GE adds this to the b-value of diffusion-weighted images."""
_GE_ALL_DIRECTIONS = 7
"""GE's code for the combination of three directions (DFAXALL)."""


@dataclass(frozen=True)
class Protocol:
    """How a vendor names and marks the images of one kind.

    ``description`` and ``sequence_name`` may hold ``{plane}``, ``{station}``, ``{b_values}`` and
    ``{fat}``, the word for the fat suppression; ``{b}`` is ``0``, or ``1000t`` of a trace-weighted
    image. ``technique`` is the vendor's own word for the sequence. ``scan_options`` of diffusion
    are those with spectral fat suppression.
    """

    description: str
    image_type: tuple[str, ...]
    scanning_sequence: tuple[str, ...]
    sequence_variant: tuple[str, ...]
    scan_options: tuple[str, ...] = ()
    sequence_name: str = ""
    technique: str = ""


@dataclass(frozen=True)
class Dialect:
    """One vendor's way to write a study.

    Parameters
    ----------
    manufacturer
        The simulator's name, then whose dialect it is.
    protocols
        By kind of series: ``localizer``, ``t1_tse``, ``t1_gre``, ``dwi``, ``adc``, and the decoys
        ``t2``, ``stir``, ``dixon_fat``.
    planes
        The vendor's words for axial, coronal and sagittal.
    fat
        What ``{fat}`` is for ``"spectral"`` and ``"stir"``.
    b_values
        How ``{b_values}`` joins whole b-values to text.
    add_private
        Adds the b-value and what else the vendor writes to the header of one slice.
    joins_stations
        All stations of a diffusion protocol in one series, or each in its own.
    b_fastest
        Images of a series are numbered by slice and then b-value, or by b-value and then slice.
    rescales
        Each series fills the grey levels on its own, with a rescale slope that undoes it.
    has_adc_map
        Whether the scanner's ADC map is written where the config does not say.
    adc_slope
        From whole um2/s to the unit that the vendor shows.
    series_numbers
        Step and offset of the numbers of series.
    """

    manufacturer: str
    protocols: Mapping[str, Protocol]
    planes: tuple[str, str, str]
    fat: Mapping[str, str]
    b_values: Callable[[tuple[int, ...]], str]
    add_private: Callable[[Dataset, Protocol, Frames], None]
    joins_stations: bool = False
    b_fastest: bool = False
    rescales: bool = False
    has_adc_map: bool = False
    adc_slope: float = 1.0
    series_numbers: tuple[int, int] = (1, 0)

    def plane(self, frames: Frames) -> str:
        """The vendor's word for the plane of the slices."""
        return self.planes[("axial", "coronal", "sagittal").index(plane_of(frames))]


def _add_siemens(dataset: Dataset, _: Protocol, frames: Frames) -> None:
    """b-value and table position (whole mm) in the private header; the standard b-value too."""
    block = dataset.private_block(0x0019, SIEMENS_CREATOR, create=True)
    if frames.b_value is not None:
        _add_standard_b(dataset, frames.b_value)
        block.add_new(0x0C, "IS", frames.b_value)
        block.add_new(0x0D, "CS", "ISOTROPIC")  # of b = 0 too
    middle = (np.asarray(frames.pixels.shape[::-1]) - 1) / 2
    table = round(float((frames.affine_lps @ (*middle, 1.0))[2]))
    block.add_new(0x13, "SL", [0, 0, table])
    block.add_new(0x14, "IS", [0, 0, table])


def _add_philips(dataset: Dataset, protocol: Protocol, frames: Frames) -> None:
    """b-value (0 where there is no diffusion weighting), technique, and both scalings."""
    b_value = frames.b_value or 0
    block = dataset.private_block(0x2001, PHILIPS_CREATOR, create=True)
    block.add_new(0x03, "FL", float(b_value))
    if frames.b_value is not None:
        _add_standard_b(dataset, b_value)
    if b_value:
        block.add_new(0x04, "CS", "I")
    block.add_new(0x20, "LO", protocol.technique)
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = decimals([frames.scale.slope])[0]
    dataset.RescaleType = "normalized"
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0D, "FL", 0.0)
    block.add_new(0x0E, "FL", frames.scale.factor)


def _add_ge(dataset: Dataset, protocol: Protocol, frames: Frames) -> None:
    """The packed b-value; images without diffusion weighting have the attribute too."""
    b_value = frames.b_value or 0
    block = dataset.private_block(0x0009, "GEMS_IDEN_01", create=True)
    block.add_new(0x01, "LO", "simulated")
    block = dataset.private_block(0x0019, "GEMS_ACQU_01", create=True)
    block.add_new(0x9C, "LO", protocol.technique)
    if frames.b_value is not None:
        block = dataset.private_block(0x0021, "GEMS_RELA_01", create=True)
        block.add_new(0x5A, "SL", _GE_ALL_DIRECTIONS)
    block = dataset.private_block(0x0043, GE_CREATOR, create=True)
    packed = _GE_OFFSET + b_value if b_value else 0
    block.add_new(0x39, "IS", [packed, 8 if frames.b_value is not None else 2, 0, 0])


def _add_standard_b(dataset: Dataset, b_value: int) -> None:
    dataset.DiffusionBValue = float(b_value)
    dataset.DiffusionDirectionality = "ISOTROPIC" if b_value else "NONE"


_MAGNITUDE = ("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D")
_SPIN, _GRADIENT, _EPI = ("SE",), ("GR",), ("EP",)
_SK, _SP, _SKO = ("SK",), ("SP", "OSP"), ("SK", "SP", "OSP")

SIEMENS = Dialect(
    manufacturer=f"{SIMULATOR} (Siemens dialect)",
    protocols=MappingProxyType(
        {
            "localizer": Protocol("localizer", _MAGNITUDE, _GRADIENT, _SP, sequence_name="*fl2d1"),
            "t1_tse": Protocol(
                "t1_tse_{plane}_st{station}", _MAGNITUDE, _SPIN, _SKO, sequence_name="*tse2d1_3"
            ),
            "t1_gre": Protocol(
                "t1_vibe_{plane}_st{station}", _MAGNITUDE, _GRADIENT, _SP, sequence_name="*fl3d1"
            ),
            "dwi": Protocol(
                "ep2d_diff_{fat}_3scan_trace_st{station}",
                ("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "NORM", "DIS2D"),
                _EPI,
                _SKO,
                ("PFP", "SFS"),
                "ep_b{b}",
            ),
            "adc": Protocol(
                "ep2d_diff_{fat}_3scan_trace_st{station}_ADC",
                ("DERIVED", "PRIMARY", "DIFFUSION", "ADC", "NORM", "DIS2D"),
                _EPI,
                _SKO,
                ("PFP", "SFS"),
                "ep_b{b_values}",
            ),
            "t2": Protocol(
                "t2_tse_{plane}_st{station}", _MAGNITUDE, _SPIN, _SKO, sequence_name="*tse2d1_15"
            ),
            "stir": Protocol(
                "t2_tirm_{plane}_st{station}",
                _MAGNITUDE,
                ("SE", "IR"),
                ("SK", "SP", "MP", "OSP"),
                sequence_name="*tir2d1_15",
            ),
            "dixon_fat": Protocol(
                "t1_vibe_dixon_{plane}_st{station}_F",
                ("DERIVED", "PRIMARY", "M", "NORM", "DIS2D", "DIXON", "FAT"),
                _GRADIENT,
                _SP,
                sequence_name="*fl3d2",
            ),
        }
    ),
    planes=("tra", "cor", "sag"),
    fat=MappingProxyType({"spectral": "spair", "stir": "stir"}),
    b_values=lambda values: "_".join(map(str, values[:: max(len(values) - 1, 1)])),
    add_private=_add_siemens,
    has_adc_map=True,
)

_PHILIPS_SE = ("ORIGINAL", "PRIMARY", "M_SE", "M", "SE")
_PHILIPS_FFE = ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")

PHILIPS = Dialect(
    manufacturer=f"{SIMULATOR} (Philips dialect)",
    protocols=MappingProxyType(
        {
            "localizer": Protocol("Survey", _PHILIPS_FFE, _GRADIENT, _SK, technique="T1FFE"),
            "t1_tse": Protocol("T1W_TSE_{plane}", _PHILIPS_SE, _SPIN, _SK, technique="TSE"),
            "t1_gre": Protocol("T1W_FFE_{plane}", _PHILIPS_FFE, _GRADIENT, _SK, technique="T1FFE"),
            "dwi": Protocol(
                "DWIBS_{fat}_{b_values}", _PHILIPS_SE, _SPIN, _SK, ("FS",), technique="DwiSE"
            ),
            "adc": Protocol(
                "ADC_DWIBS_{fat}",
                ("DERIVED", "PRIMARY", "ADC_UNSPECIFIED", "ADC", "UNSPECIFIED"),
                _SPIN,
                _SK,
                ("FS",),
                technique="DwiSE",
            ),
            "t2": Protocol("T2W_TSE_{plane}", _PHILIPS_SE, _SPIN, _SK, technique="TSE"),
            "stir": Protocol(
                "STIR_TSE_{plane}",
                ("ORIGINAL", "PRIMARY", "M_IR", "M", "IR"),
                ("IR",),
                _SK,
                technique="TIR",
            ),
            "dixon_fat": Protocol(
                "mDIXON_{plane}_F",
                ("DERIVED", "PRIMARY", "F", "F", "DERIVED"),
                _GRADIENT,
                _SK,
                technique="T1FFE",
            ),
        }
    ),
    planes=("TRA", "COR", "SAG"),
    fat=MappingProxyType({"spectral": "SPAIR", "stir": "STIR"}),
    b_values=lambda values: "_".join(f"b{b}" for b in values),
    add_private=_add_philips,
    b_fastest=True,
    rescales=True,
    adc_slope=1e-3,
    series_numbers=(100, 1),
)

_GE_TYPE = ("ORIGINAL", "PRIMARY", "OTHER")
_GE_EPI = ("EPI_GEMS", "PFF", "FS")

GE = Dialect(
    manufacturer=f"{SIMULATOR} (GE dialect)",
    protocols=MappingProxyType(
        {
            "localizer": Protocol("3-Plane Loc", _GE_TYPE, _GRADIENT, _SK, technique="FGRE"),
            "t1_tse": Protocol("WB {plane} T1 FSE", _GE_TYPE, _SPIN, _SK, technique="FSE"),
            "t1_gre": Protocol("WB {plane} T1 LAVA", _GE_TYPE, _GRADIENT, _SK, technique="EFGRE3D"),
            "dwi": Protocol(
                "{plane} DWI {fat}b{b_values}",
                _GE_TYPE,
                ("EP", "SE"),
                ("NONE",),
                _GE_EPI,
                technique="EPI2",
            ),
            "adc": Protocol(
                "Apparent Diffusion Coefficient (mm2/s)",
                ("DERIVED", "SECONDARY", "PROCESSED"),
                ("EP", "SE"),
                ("NONE",),
                _GE_EPI,
                technique="EPI2",
            ),
            "t2": Protocol("WB {plane} T2 FSE", _GE_TYPE, _SPIN, _SK, technique="FSE"),
            "stir": Protocol("WB {plane} STIR", _GE_TYPE, ("SE", "IR"), _SK, technique="FSEIR"),
            "dixon_fat": Protocol(
                "FAT: WB {plane} LAVA Flex",
                ("DERIVED", "PRIMARY", "DIXON", "FAT"),
                _GRADIENT,
                _SK,
                technique="EFGRE3D",
            ),
        }
    ),
    planes=("Ax", "Cor", "Sag"),
    fat=MappingProxyType({"spectral": "", "stir": "STIR "}),
    b_values=lambda values: " ".join(map(str, values)),
    add_private=_add_ge,
    joins_stations=True,
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {"siemens": SIEMENS, "philips": PHILIPS, "ge": GE}
)
"""By the name that a configuration gives."""
