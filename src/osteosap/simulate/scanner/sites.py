"""Three virtual sites: scanners with different field, sequence, voxel, b-values and habits.

The numbers are ours, of the kind that whole-body protocols of the three makers have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from osteosap.config import StageConfig
from osteosap.simulate.scanner.protocol import (
    ArtefactConfig,
    DwiConfig,
    ScannerConfig,
    StationConfig,
    T1Config,
)
from osteosap.simulate.signals import SequenceConfig

__all__ = ["SITES", "Dialect", "Site", "vary"]

Dialect = Literal["siemens", "philips", "ge"]
C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Site:
    """A virtual site.

    Parameters
    ----------
    name
        Key of :data:`SITES`.
    dialect
        Whose DICOM its scanner writes.
    sequence, scanner
        Its protocol.
    """

    name: str
    dialect: Dialect
    sequence: SequenceConfig
    scanner: ScannerConfig


_A = Site("a", "siemens", SequenceConfig(), ScannerConfig())

_B = Site(
    "b",
    "philips",
    SequenceConfig(
        field_strength_t=3.0,
        t1_tr_ms=600.0,
        t1_te_ms=8.0,
        dwi_tr_ms=7000.0,
        dwi_te_ms=62.0,
        fat_suppression="stir",
    ),
    ScannerConfig(
        stations=StationConfig(count=6, overlap_mm=30.0, gain=0.22),
        t1=T1Config(
            spacing_mm=(1.6, 1.6, 5.0), interpolation=1.25, snr=80.0,
            read_bandwidth_hz_per_pixel=430.0,
        ),
        dwi=DwiConfig(
            spacing_mm=(2.5, 2.5, 5.0), interpolation=1.6, b_values_s_per_mm2=(0.0, 100.0, 1000.0),
            snr=34.0, bandwidth_hz_per_pixel=38.0, phase_polarity=-1, residual_fat=0.05,
        ),
        artefacts=ArtefactConfig(
            bias=0.24, surface_bias=0.5, station_end_ppm=0.6, dephasing_ms=13.0, eddy_mm=2.0,
            epi_ghost=0.03,
        ),
    ),
)  # fmt: skip

_C = Site(
    "c",
    "ge",
    SequenceConfig(t1_sequence="gre", dwi_tr_ms=6500.0, dwi_te_ms=74.0),
    ScannerConfig(
        stations=StationConfig(count=4, overlap_mm=50.0, gain=0.16),
        t1=T1Config(
            spacing_mm=(1.9, 1.9, 4.0), interpolation=1.4, snr=45.0,
            read_bandwidth_hz_per_pixel=490.0,
        ),
        dwi=DwiConfig(
            spacing_mm=(2.2, 2.2, 6.0), interpolation=1.8, b_values_s_per_mm2=(50.0, 400.0, 900.0),
            snr=24.0, averages=4, bandwidth_hz_per_pixel=22.0,
        ),
        artefacts=ArtefactConfig(
            bias=0.18, surface_bias=0.4, station_end_ppm=1.2, eddy_mm=2.5, breathing_ghost=0.0,
        ),
    ),
)  # fmt: skip

SITES: dict[str, Site] = {site.name: site for site in (_A, _B, _C)}
"""a: 1.5 T, TSE, spectral fat suppression. b: 3 T, TSE, STIR. c: 1.5 T, gradient echo T1 in
breath-hold, no b = 1000, which must be computed."""


def vary(
    sequence: SequenceConfig, scanner: ScannerConfig, rng: np.random.Generator
) -> tuple[SequenceConfig, ScannerConfig]:
    """Draw a protocol around a given one, as exams of one site differ.

    Parameters
    ----------
    sequence, scanner
        The protocol; an artefact that is off stays off.
    rng
        Source of the deviations.
    """
    f = np.exp(rng.normal(0, 0.25, size=12))
    tr, te = rng.uniform(0.9, 1.1), rng.uniform(0.92, 1.08)
    more = int(rng.integers(-1, 2))
    wrong = scanner.artefacts
    ghost = min(wrong.breathing_ghost * f[6], 1.0), min(wrong.epi_ghost * f[7], 1.0)
    return (
        _with(sequence, t1_tr_ms=sequence.t1_tr_ms * tr, dwi_te_ms=sequence.dwi_te_ms * te),
        _with(
            scanner,
            stations=_with(
                scanner.stations,
                count=max(scanner.stations.count + more, 1),
                gain=scanner.stations.gain * f[0],
            ),
            t1=_with(scanner.t1, snr=scanner.t1.snr * f[1]),
            dwi=_with(
                scanner.dwi,
                snr=scanner.dwi.snr * f[2],
                residual_fat=min(scanner.dwi.residual_fat * f[3], 1.0),
            ),
            artefacts=_with(
                wrong,
                bias=wrong.bias * f[4],
                surface_bias=wrong.surface_bias * f[5],
                breathing_ghost=ghost[0],
                epi_ghost=ghost[1],
                breathing_mm=wrong.breathing_mm * f[8],
                eddy_mm=wrong.eddy_mm * f[9],
                station_end_ppm=wrong.station_end_ppm * f[10],
                dwi_shift_mm=wrong.dwi_shift_mm * f[11],
            ),
        ),
    )


def _with(config: C, **values: Any) -> C:
    """The settings with some replaced, validated."""
    plain = {k: float(v) if isinstance(v, np.floating) else v for k, v in values.items()}
    return type(config).model_validate({**dict(config), **plain})
