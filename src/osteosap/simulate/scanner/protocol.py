"""Settings of the virtual scanner: stations, T1, DWI, artefacts. Every artefact is off at 0."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from osteosap.config import StageConfig

__all__ = ["ArtefactConfig", "DwiConfig", "ScannerConfig", "StationConfig", "T1Config"]

Spacing = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class StationConfig(StageConfig):
    """Bed positions.

    Parameters
    ----------
    count
        Number of stations.
    overlap_mm
        Overlap of neighbours along z, at least two slices.
    gain
        SD of the logarithm of the gain, drawn per station and sequence.
    shift_mm
        SD along each axis of how far the patient lies off at a station, cut at two SDs. Both
        sequences of the station share it.
    """

    count: PositiveInt = 5
    overlap_mm: float = pydantic.Field(default=40.0, ge=0.0, le=1000.0)
    gain: NonNegativeFloat = 0.12
    shift_mm: float = pydantic.Field(default=0.5, ge=0.0, le=6.0)


class T1Config(StageConfig):
    """Acquisition of T1.

    Parameters
    ----------
    spacing_mm
        Voxel of the images.
    interpolation
        In-plane acquired voxel over reconstructed voxel; above 1 k-space is zero-filled.
    snr
        Signal of muscle over the SD of noise; 0 means no noise.
    read_bandwidth_hz_per_pixel
        Displacement along x near metal is the off-resonance over it.
    """

    spacing_mm: Spacing = (2.0, 2.0, 4.0)
    interpolation: float = pydantic.Field(default=1.0, ge=1.0, le=4.0)
    snr: NonNegativeFloat = 65.0
    read_bandwidth_hz_per_pixel: PositiveFloat = 250.0


class DwiConfig(StageConfig):
    """Acquisition of diffusion EPI, phase encoding along y.

    Parameters
    ----------
    spacing_mm, interpolation
        As for T1.
    b_values_s_per_mm2
        Any list, at least one.
    snr
        Signal of muscle at b = 0 over the SD of noise of the averaged image; 0 means no noise.
        All b-values have the same noise.
    averages
        Magnitude images averaged (three directions of a trace image).
    bandwidth_hz_per_pixel
        Along the phase direction: 1 / (echo spacing x lines), parallel imaging included.
    phase_polarity
        1: higher frequency is shown too far anterior; -1: posterior.
    residual_fat
        Share of fat that suppression leaves even where the field is right.
    """

    spacing_mm: Spacing = (3.0, 3.0, 4.0)
    interpolation: float = pydantic.Field(default=1.0, ge=1.0, le=4.0)
    b_values_s_per_mm2: tuple[NonNegativeFloat, ...] = pydantic.Field(
        default=(0.0, 50.0, 1000.0), min_length=1
    )
    snr: NonNegativeFloat = 30.0
    averages: PositiveInt = 3
    bandwidth_hz_per_pixel: PositiveFloat = 28.0
    phase_polarity: Literal[1, -1] = 1
    residual_fat: float = pydantic.Field(default=0.03, ge=0.0, le=1.0)


class ArtefactConfig(StageConfig):
    """What goes wrong, in units; the sizes are ours.

    Parameters
    ----------
    bias
        SD of the logarithm of the coils' smooth field, drawn per station and sequence.
    surface_bias
        Logarithm of how much brighter the surface is than the depth of the body.
    off_resonance
        Factor of the field that susceptibility makes; 1 is physics. Causes the distortion and
        the failure of fat suppression of EPI, and the voids around metal.
    station_end_ppm
        Field at the ends of a station, where magnet and gradients are no longer homogeneous; it
        grows with the fourth power of the distance from the station's centre.
    dephasing_ms
        Time over which EPI loses signal in field gradients.
    eddy_mm
        Shift along the phase direction at b = 1000 at a station's end; it grows with b and with
        the distance from the station's centre.
    dwi_shift_mm
        SD along each axis, per station, of the move of the patient between T1 and DWI.
    breathing_mm
        Amplitude (peak to peak, along z) at the diaphragm: DWI is blurred by it, T1 by half.
    breathing_ghost
        Share of the moving signal in the first ghosts of T1.
    epi_ghost
        Share of the signal in the ghost of EPI at half the field of view.
    """

    bias: NonNegativeFloat = 0.15
    surface_bias: NonNegativeFloat = 0.35
    off_resonance: NonNegativeFloat = 1.0
    station_end_ppm: NonNegativeFloat = 0.8
    dephasing_ms: NonNegativeFloat = 15.0
    eddy_mm: NonNegativeFloat = 1.5
    dwi_shift_mm: NonNegativeFloat = 0.8
    breathing_mm: NonNegativeFloat = 8.0
    breathing_ghost: float = pydantic.Field(default=0.05, ge=0.0, le=1.0)
    epi_ghost: float = pydantic.Field(default=0.02, ge=0.0, le=1.0)

    @classmethod
    def none(cls) -> ArtefactConfig:
        """An ideal scanner."""
        return cls.model_validate(dict.fromkeys(cls.model_fields, 0.0))


class ScannerConfig(StageConfig):
    """Acquisition of the virtual scanner; the default is a good protocol at 1.5 T.

    Parameters
    ----------
    stations, t1, dwi, artefacts
        Bed positions, the two sequences, and what goes wrong.
    """

    stations: StationConfig = StationConfig()
    t1: T1Config = T1Config()
    dwi: DwiConfig = DwiConfig()
    artefacts: ArtefactConfig = ArtefactConfig()
