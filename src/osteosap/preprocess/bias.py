"""Bias fields of stations: the smooth brightness that receiver coils lay over an image.

Shading smears each tissue over the log-signal; the corrected image is the one whose histogram is
sharpest. N4 [1] sharpens the histogram of one image at a time. In the body that is slow, and a
station of few tissues says little about what is shading and what is anatomy. So the default (ours)
lets the stations of a sequence share one histogram. Every voxel is drawn to the nearest peak of it
by mean shift [2], the more the more voxels lie there, so that mixed voxels and rare tissues hardly
count; penalised splines [3], one a station, take up what the voxels are drawn by. Where stations
overlap anatomy cancels in their ratio, which the fields are fitted to as well. N4 is a setting.

On DWI a field takes up more than the coils: EPI piles signal up and stretches it, as smoothly as a
coil shades. :mod:`~osteosap.preprocess.muscle` tells the two apart once a station lies on T1.

References
----------
.. [1] Tustison et al. 2010, doi 10.1109/TMI.2010.2046908.
.. [2] Comaniciu and Meer 2002, doi 10.1109/34.1000236.
.. [3] Eilers and Marx 1996, doi 10.1214/ss/1038425655.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy import ndimage

from osteosap.config import StageConfig
from osteosap.errors import VolumeError
from osteosap.geometry import Grid
from osteosap.preprocess.bias_field import MOST_LOST, BiasField
from osteosap.preprocess.body import foreground_threshold, without_saturated
from osteosap.preprocess.field_spline import FieldSpline, JointFit
from osteosap.preprocess.itk import from_sitk, to_sitk
from osteosap.preprocess.overlaps import Overlap
from osteosap.volume import Volume

__all__ = [
    "BiasConfig",
    "estimate_bias",
    "estimate_biases",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_VOXELS = 300
"""Fewest tissue voxels on the coarse grid of a station that give a field."""
MIN_STATIONS_TO_COMPARE = 3
"""Fewest stations whose fields say what is usual."""
BIN = 0.01
"""Bin of the histogram of the log-signal."""
MUSCLE_WIDTHS = (0.2, 0.15, 0.1)
"""``kernel_widths`` for muscle alone: what is left of other tissue has no peak to be drawn to. They
were chosen on seed 8201 of ``benchmarks/preprocess.py``, what follows on 7001 and 7002."""
MUSCLE_SLOPE = 0.06
"""``slope_stiffness`` for muscle alone."""
MUSCLE_OVERLAP = 0.5
"""``overlap_weight`` for muscle alone."""


class BiasConfig(StageConfig):
    """How the bias fields of stations are found. Lengths in mm hold for stations of any size."""

    enabled: bool = True
    """Correct the bias of T1 and DWI."""
    method: Literal["shared histogram", "n4"] = "shared histogram"
    """Draw voxels to the peaks of the histogram that stations share, or N4 for each station."""
    spacing_mm: PositiveFloat = 6.0
    """Voxel at which the field is estimated (N4: 10 mm and more, or it takes a minute)."""
    control_point_mm: PositiveFloat = 100.0
    """Distance of the control points of the spline."""
    stiffness: PositiveFloat = 0.0007
    """Weight of the spline's curvature against the fit."""
    dwi_stiffness: PositiveFloat = 0.01
    """The same for DWI: stiffer, so that it follows what EPI does to signal less."""
    slope_stiffness: NonNegativeFloat = 0.0
    """Weight of the spline's slope, times more where a station has less tissue than the others."""
    overlap_weight: NonNegativeFloat = 0.1
    """Weight of what two stations differ by in their overlap, against the tissue of one station;
    0 leaves it out. N4 does not know of it."""
    kernel_widths: tuple[PositiveFloat, ...] = Field(
        default=(0.2, 0.16, 0.13, 0.1, 0.08, 0.07, 0.06), min_length=1
    )
    """SDs by which the histogram of the log-signal is smoothed, one after the other."""
    iterations: PositiveInt = 3
    """Steps at every width."""
    density_power: float = Field(default=0.5, ge=0, le=1)
    """A voxel's weight is the density of the histogram at its signal, to this power."""
    max_voxels: int = Field(default=8000, ge=MIN_VOXELS)
    """Most tissue voxels of a station that are fitted, spread evenly."""
    most_over_median: float = Field(default=2.0, ge=1)
    """A field whose SD is more times the median of all stations is flattened to that, unless it was
    fitted to an overlap."""
    n4_iterations: tuple[PositiveInt, ...] = Field(default=(50, 50, 50), min_length=1)
    """N4: most iterations of every level; each level halves the distance of control points."""
    n4_convergence: PositiveFloat = 0.001
    """N4: a level ends when the field changes by less."""

    @property
    def compares_stations(self) -> bool:
        """Whether what stations show at the same places is of any use."""
        return self.method != "n4"

    def for_dwi(self) -> BiasConfig:
        """The settings with the stiffness of DWI."""
        return self.model_copy(update={"stiffness": self.dwi_stiffness})

    def for_muscle(self) -> BiasConfig:
        """The settings for muscle alone, most of it uniform: rough steps, and little slope."""
        fixed = {
            "kernel_widths": MUSCLE_WIDTHS,
            "slope_stiffness": MUSCLE_SLOPE,
            "overlap_weight": MUSCLE_OVERLAP if self.overlap_weight else 0.0,
        }
        return self.for_dwi().model_copy(update=fixed)


def estimate_bias(
    volume: Volume, *, mask: Mask | None = None, config: BiasConfig | None = None
) -> BiasField:
    """Bias field of one station by itself: :func:`estimate_biases` of one volume."""
    return estimate_biases([volume], masks=[mask], config=config)[0]


def estimate_biases(
    volumes: Sequence[Volume],
    *,
    masks: Sequence[Mask | None] | None = None,
    patterns: Sequence[Floats | None] | None = None,
    losses: Sequence[Floats | None] | None = None,
    overlaps: Sequence[Overlap] = (),
    config: BiasConfig | None = None,
) -> list[BiasField]:
    """Bias fields of the stations of one sequence.

    Parameters
    ----------
    volumes
        Stations of one sequence; the first channel is read.
    masks
        bool (I, J, K) of each station: the tissue. None: what stands out from the air.
    patterns
        float32 (I, J, K) of each station: a known shape of which the logarithm of its field may
        hold any share, besides the splines (N4 does not know of it). None: no such shape.
    losses
        float32 (I, J, K) of each station: a known shape by which the logarithm of its signal falls,
        times one factor for all stations that is found with the fields. What is lost is no part of
        them (N4 does not know of it). None: nothing is lost.
    overlaps
        What stations differ by where they show the same: it tells how their levels compare, and
        their fields are fitted to it (by N4 they are not).
    config
        Settings; None means all defaults.

    Returns
    -------
    fields
        In the order of the volumes. A station without enough tissue gets a flat one and the
        reason. The same input gives the same field.
    """
    config = config or BiasConfig()
    masks = [None] * len(volumes) if masks is None else masks
    patterns = [None] * len(volumes) if patterns is None else patterns
    losses = [None] * len(volumes) if losses is None else losses
    parts = zip(volumes, masks, patterns, losses, strict=True)
    coarse = [_coarsen(v, m, p, q, config) for v, m, p, q in parts]
    good = [n for n, c in enumerate(coarse) if not c.reason]
    some = [coarse[n] for n in good]
    among = _among(good, overlaps)
    if config.method == "n4":
        found = [(_n4(c, config), float("nan")) for c in some]
    else:
        found = _shared_histogram(some, among, config) if good else []
    fitted = among if config.compares_stations and config.overlap_weight else []
    fields = [BiasField(np.zeros(c.grid.shape, np.float32), c.grid, c.reason) for c in coarse]
    for place, (n, c, (whole, factor)) in enumerate(zip(good, some, found, strict=True)):
        log_field = whole - whole[c.tissue].mean()
        reached = _reached(place, c.grid, fitted)
        known = c.tissue | reached
        low, high = np.percentile(log_field[known], [0.5, 99.5])
        held = np.clip(log_field, low, high)  # splines run away where nothing is known
        fields[n] = BiasField(
            held.astype(np.float32),
            c.grid,
            compared=int(reached.sum()),
            loss_factor=factor,
            log_left=_log_left(c, factor),
        )
    return [_levelled(f, c) for f, c in zip(_tamed(fields, coarse, config), coarse, strict=True)]


def _among(stations: Sequence[int], overlaps: Sequence[Overlap]) -> list[Overlap]:
    """Overlaps of some stations with each other; these are counted anew."""
    place = {n: m for m, n in enumerate(stations)}
    pairs = [(o, [place[s] for s in o.stations if s in place]) for o in overlaps]
    return [replace(o, stations=(found[0], found[1])) for o, found in pairs if len(found) == 2]


def _reached(station: int, grid: Grid, overlaps: Sequence[Overlap]) -> Mask:
    """Voxels of a station's coarse grid next to which it was compared with another."""
    reached, inverse = np.zeros(grid.shape, bool), np.linalg.inv(grid.affine)
    for overlap in overlaps:
        if station in overlap.stations:
            points = overlap.points[overlap.stations.index(station)]
            index = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.intp)
            reached[tuple(np.clip(index, 0, np.asarray(grid.shape) - 1).T)] = True
    return reached


def _log_left(coarse: _Coarse, factor: float) -> Floats | None:
    """Logarithm of the share of the signal that a loss leaves, as far as it is made up for."""
    if coarse.loss is None or np.isnan(factor):
        return None
    return np.asarray(-np.minimum(factor * coarse.loss, MOST_LOST), np.float32)


def _levelled(field: BiasField, coarse: _Coarse) -> BiasField:
    """A field with the level of the tissue that it leaves, had nothing been lost."""
    if field.reason:
        return field
    left = (coarse.log_signal - field.log_field)[coarse.tissue]
    if field.log_left is not None:
        left = left - field.log_left[coarse.tissue]
    return replace(field, level=float(np.median(left)))


def _tamed(
    fields: Sequence[BiasField], coarse: Sequence[_Coarse], config: BiasConfig
) -> list[BiasField]:
    """Fields with one that varies far more than the others flattened: it follows anatomy.

    Not where it was fitted to what another station shows, in which anatomy cancels.
    """
    spreads = [
        float(f.log_field[c.tissue].std()) if not f.reason else 0.0
        for f, c in zip(fields, coarse, strict=True)
    ]
    real = [s for s in spreads if s > 0]
    if len(real) < MIN_STATIONS_TO_COMPARE:
        return list(fields)
    most = config.most_over_median * float(np.median(real))
    return [
        replace(f, log_field=f.log_field * np.float32(most / spread))
        if spread > most and not f.compared
        else f
        for f, spread in zip(fields, spreads, strict=True)
    ]


@dataclass(frozen=True)
class _Coarse:
    """A station at the spacing of the estimate: log-signal, tissue, or why there is none."""

    log_signal: Floats
    tissue: Mask
    grid: Grid
    reason: str = ""
    pattern: Floats | None = None
    loss: Floats | None = None


def _coarsen(
    volume: Volume,
    mask: Mask | None,
    pattern: Floats | None,
    loss: Floats | None,
    config: BiasConfig,
) -> _Coarse:
    """Pick every n-th voxel: its median with near neighbours, which keeps tissues apart."""
    array, grid = volume.array[0], volume.grid
    pairs = list(zip(array.shape, grid.spacing_mm, strict=True))
    step = np.array([max(1, min(round(config.spacing_mm / s), n)) for n, s in pairs])
    first = (step - 1) // 2
    axes = [np.arange(f, n, k) for f, (n, _), k in zip(first, pairs, step, strict=True)]
    reach = [1 if 2 * s <= config.spacing_mm else 0 for _, s in pairs]
    picked = []
    for shift in product(*[range(-r, r + 1) for r in reach]):
        near = [np.clip(a + d, 0, n - 1) for a, d, n in zip(axes, shift, array.shape, strict=True)]
        picked.append(array[np.ix_(*near)])
    signal = np.median(np.stack(picked), axis=0).astype(np.float32)
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    affine[:3, :3] = affine[:3, :3] * step
    small = Grid((signal.shape[0], signal.shape[1], signal.shape[2]), affine)
    try:
        level = foreground_threshold(array) if mask is None else 0.0
    except VolumeError as error:
        return _Coarse(signal, np.zeros(signal.shape, bool), small, str(error))
    tissue = np.isfinite(signal) & (signal > level)
    if mask is not None:
        tissue &= mask[np.ix_(*axes)]
    tissue = without_saturated(signal, tissue)
    log_signal = np.log(np.where(tissue, signal, 1.0), dtype=np.float32)
    count = int(tissue.sum())
    why = f"{count} tissue voxels of {config.spacing_mm:g} mm, {MIN_VOXELS} needed for a bias field"
    shapes = [None if shape is None else shape[np.ix_(*axes)] for shape in (pattern, loss)]
    return _Coarse(log_signal, tissue, small, "" if count >= MIN_VOXELS else why, *shapes)


def _shared_histogram(
    stations: Sequence[_Coarse], overlaps: Sequence[Overlap], config: BiasConfig
) -> list[tuple[Doubles, float]]:
    """Log-fields of stations, relative levels included, that sharpen their common histogram.

    And the factor of what every station has lost.
    """
    usual = float(np.median([c.tissue.sum() for c in stations]))
    splines = [_spline(c, config, usual) for c in stations]
    for spline, level in zip(splines, _levels(splines, overlaps), strict=True):
        spline.set_level(level)
    counted = overlaps if config.overlap_weight else ()
    joint = JointFit(splines, counted, overlap_weight=config.overlap_weight)
    for width in config.kernel_widths:
        for _ in range(config.iterations):
            values = [s.corrected for s in splines]
            joint.fit(list(_mean_shift(values, width, config.density_power)))
    return [(s.whole(), s.loss_factor) for s in splines]


def _spline(coarse: _Coarse, config: BiasConfig, usual: float) -> FieldSpline:
    """The spline of a station, held flatter where it has fewer tissue voxels than is usual."""
    return FieldSpline(
        coarse.log_signal,
        coarse.tissue,
        coarse.grid,
        control_point_mm=config.control_point_mm,
        max_voxels=config.max_voxels,
        stiffness=config.stiffness,
        slope_stiffness=config.slope_stiffness * max(1.0, usual / float(coarse.tissue.sum())),
        pattern=coarse.pattern,
        loss=coarse.loss,
    )


def _mean_shift(
    values: Sequence[Doubles], width: float, power: float
) -> Iterator[tuple[Doubles, Doubles]]:
    """Where the kernel mean of the common histogram draws each value, and with what weight."""
    position = np.concatenate(values) / BIN
    first = int(np.floor(position.min() - 4 * width / BIN))
    n = int(position.max() + 4 * width / BIN) + 2 - first
    whole = np.floor(position)
    part = position - whole  # shared by two bins, so that rounding is not amplified
    lower = whole.astype(np.intp) - first
    counts = np.bincount(lower, 1 - part, minlength=n) + np.bincount(lower + 1, part, minlength=n)
    centres = BIN * (first + np.arange(n))
    density = ndimage.gaussian_filter1d(counts / position.size, width / BIN, mode="constant")
    moment = ndimage.gaussian_filter1d(
        counts / position.size * centres, width / BIN, mode="constant"
    )
    mean = moment / np.maximum(density, 1e-12)
    for v in values:
        yield np.interp(v, centres, mean), np.interp(v, centres, density) ** power


def _levels(splines: Sequence[FieldSpline], overlaps: Sequence[Overlap]) -> Doubles:
    """Relative log-levels of stations from their overlaps; by their medians where there is none.

    Least squares over all pairs that overlap, so that the levels do not hang on an order.
    """
    n = len(splines)
    medians = np.array([np.median(s.signal) for s in splines])
    normal, right = 1e-3 * np.eye(n), 1e-3 * (medians - medians.mean())
    for overlap in overlaps:
        a, b = overlap.stations
        difference = np.median(overlap.log_ratio)
        normal[[a, b], [a, b]] += 1.0
        normal[[a, b], [b, a]] -= 1.0
        right[a] += difference
        right[b] -= difference
    return np.asarray(np.linalg.solve(normal, right))


def _n4(coarse: _Coarse, config: BiasConfig) -> Doubles:
    """Log-field of one station by N4."""
    import SimpleITK as sitk  # noqa: N813

    image = to_sitk(np.exp(coarse.log_signal), coarse.grid)
    n4: Any = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)  # the same field on any machine
    extent = np.asarray(coarse.grid.shape) * coarse.grid.spacing_mm
    finest = 2 ** (len(config.n4_iterations) - 1)
    mesh = np.maximum(1, np.rint(extent / config.control_point_mm / finest))
    n4.SetNumberOfControlPoints([int(m) + 3 for m in mesh])
    n4.SetMaximumNumberOfIterations(list(config.n4_iterations))
    n4.SetConvergenceThreshold(config.n4_convergence)
    n4.SetUseMaskLabel(True)
    n4.Execute(image, to_sitk(coarse.tissue.astype(np.uint8), coarse.grid))
    return np.asarray(from_sitk(n4.GetLogBiasFieldAsImage(image)), np.float64)
