"""Small bodies with known answers, for the tests of signals and scanner."""

import numpy as np

from osteosap.geometry import Grid, make_affine
from osteosap.simulate.body import Body, BonePlace
from osteosap.simulate.disease.painting import Disease
from osteosap.simulate.scanner.protocol import (
    ArtefactConfig,
    DwiConfig,
    ScannerConfig,
    StationConfig,
    T1Config,
)
from osteosap.simulate.signals import DiffusionMaps, Signals
from osteosap.simulate.tissue import T

BONES = (BonePlace("L3", 3, "spine"), BonePlace("femur right", 5, "femur"))


def grid_of(shape: tuple[int, int, int], spacing: float = 3.0) -> Grid:
    """Grid centred on the origin."""
    origin = tuple(-(n - 1) / 2 * spacing for n in shape)
    return Grid(shape, make_affine((spacing,) * 3, origin))


def box_body(
    shape: tuple[int, int, int] = (40, 36, 60),
    *,
    spacing: float = 3.0,
    margin: int = 6,
    tissue: T = T.MUSCLE,
) -> Body:
    """A box of one tissue in air; it fills the grid along z."""
    body = Body.empty(None, grid_of(shape, spacing), BONES)  # type: ignore[arg-type]
    body.tissue[margin:-margin, margin:-margin] = tissue
    return body


def healthy(body: Body) -> Disease:
    """No disease."""
    zeros = np.zeros(body.grid.shape, np.float32)
    return Disease(np.zeros(body.grid.shape, np.int32), zeros, zeros.copy(), zeros.copy())


def plain_signals(body: Body, *, fat: float = 0.0, adc: float = 1000.0) -> Signals:
    """Signal 1 wherever there is tissue, with a share of it fat on DWI."""
    present = (body.tissue != T.AIR).astype(np.float32)
    maps = DiffusionMaps((1 - fat) * present, fat * present, np.float32(adc) * present)
    return Signals(present.copy(), maps)


def ideal(
    *,
    spacing: tuple[float, float, float] = (3.0, 3.0, 6.0),
    b_values: tuple[float, ...] = (0.0, 1000.0),
    n_stations: int = 1,
    **artefacts: float,
) -> ScannerConfig:
    """A scanner without noise or artefacts, but those that are named."""
    return ScannerConfig(
        stations=StationConfig(count=n_stations, overlap_mm=30.0, gain=0.0, shift_mm=0.0),
        t1=T1Config(spacing_mm=spacing, snr=0.0),
        dwi=DwiConfig(spacing_mm=spacing, snr=0.0, b_values_s_per_mm2=b_values, residual_fat=0.0),
        artefacts=ArtefactConfig.none().model_copy(update=artefacts),
    )
