"""Where stations meet: match their intensities, and note how well they agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from osteosap.preprocess.intensity import seam_mismatch, station_scales
from osteosap.preprocess.record import Job, number
from osteosap.preprocess.stations import StationLayout
from osteosap.preprocess.stitch import Placed

__all__ = ["match_stations"]


def match_stations(
    before: Sequence[Placed],
    after: Sequence[Placed],
    layout: StationLayout,
    *,
    job: Job,
    channel: str,
) -> tuple[float, ...]:
    """Scales that make corrected stations agree; seams are noted before and after.

    Parameters
    ----------
    before, after
        The stations as acquired and as corrected, both placed on one grid.
    channel
        Name for the record.
    """
    n = len(after)
    if n == 1:
        return (1.0,)
    found = station_scales(after, layout.order)
    first = seam_mismatch(before, layout.order, (1.0,) * n)
    scales = found.scales
    if not job.config.standardise_stations:
        scales = (1.0,) * n
        job.step(f"match {channel} stations", "off in the settings")
    else:
        job.warn(*found.warnings)
        job.step(
            f"match {channel} stations",
            "one scale a station, from the central one outwards",
            scales=[round(scales[i], 5) for i in layout.order],
        )
    last = seam_mismatch(after, layout.order, scales)
    for pair, (lower, upper) in enumerate(pairwise(range(n))):
        job.seams.append(
            {
                "channel": channel,
                "pair": [lower + 1, upper + 1],
                "overlap_mm": round(layout.overlaps_mm[pair], 2),
                "mismatch_before": number(first[pair]),
                "mismatch_after": number(last[pair]),
            }
        )
    return scales
