"""Where stations meet: match their intensities, and note how well they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from osteosap.geometry import Grid
from osteosap.preprocess.bias_field import BiasField
from osteosap.preprocess.evening import evened, evening_fields
from osteosap.preprocess.intensity import seam_mismatch, station_scales
from osteosap.preprocess.record import Job, number
from osteosap.preprocess.stations import StationLayout
from osteosap.preprocess.stitch import Placed

__all__ = ["Match", "match_stations"]


@dataclass(frozen=True)
class Match:
    """What makes stations agree.

    Parameters
    ----------
    scales
        Factor of every station.
    fields
        What every station is divided by besides, on the grid of the exam; None for nothing.
    """

    scales: tuple[float, ...]
    fields: tuple[BiasField | None, ...]

    def evened(self, placed: Sequence[Placed], grid: Grid) -> list[Placed]:
        """Placed stations divided by their fields, not yet scaled."""
        return [evened(p, f, grid) for p, f in zip(placed, self.fields, strict=True)]


def match_stations(
    before: Sequence[Placed],
    after: Sequence[Placed],
    layout: StationLayout,
    *,
    job: Job,
    channel: str,
    grid: Grid | None = None,
    levels: Sequence[float | None] | None = None,
) -> Match:
    """What makes corrected stations agree; seams are noted before, after, and evened.

    What is left after bias, place and scale is the seam. The fields that even it are made from the
    very overlaps: what differs then is detail, and the blend of the stations is nearly the same.

    Parameters
    ----------
    before, after
        The stations as acquired and as corrected, both placed on one grid.
    channel
        Name for the record.
    grid
        That they are placed on; None: the layout's.
    levels
        Log-signal of muscle, which should be equally bright in all stations, where it is known.
    """
    n = len(after)
    if n == 1:
        return Match((1.0,), (None,))
    found = station_scales(after, layout.order, levels=levels)
    first = seam_mismatch(before, layout.order, (1.0,) * n)
    scales = found.scales
    fields: Sequence[BiasField | None] = (None,) * n
    if not job.config.standardise_stations:
        scales = (1.0,) * n
        job.step(f"match {channel} stations", "off in the settings")
    else:
        job.warn(*found.warnings)
        known = sum(level is not None for level in levels or ())
        by = "by overlaps"
        by += f" and the level of muscle, known in {known} of {n}" if known > 1 else ""
        job.step(
            f"match {channel} stations",
            f"one scale a station, {by}, and fields that make overlaps agree",
            scales=[round(scales[i], 5) for i in layout.order],
        )
        fields = evening_fields(after, layout.order, scales, grid or layout.grid)
    match = Match(scales, tuple(fields))
    scaled = seam_mismatch(after, layout.order, scales)
    last = seam_mismatch(match.evened(after, grid or layout.grid), layout.order, scales)
    for pair, (lower, upper) in enumerate(pairwise(range(n))):
        job.seams.append(
            {
                "channel": channel,
                "pair": [lower + 1, upper + 1],
                "overlap_mm": round(layout.overlaps_mm[pair], 2),
                "mismatch_before": number(first[pair]),
                "mismatch_after": number(scaled[pair]),
                "mismatch_evened": number(last[pair]),
            }
        )
    return match
