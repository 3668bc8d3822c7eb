"""What preprocessing did: steps with numbers, and warnings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.intensity import StationScales, station_scales
from osteosap.preprocess.stations import StationLayout
from osteosap.preprocess.stitch import Placed

__all__ = ["Job"]

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """Settings of one run, and the steps and warnings that collect while it goes."""

    config: PreprocessConfig
    steps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def step(self, name: str, done: str, **numbers: Any) -> None:
        """Note a step: its name, what was done and why in one sentence, JSON numbers."""
        self.steps.append({"step": name, "done": done, **numbers})
        _log.info("%s: %s", name, done)

    def warn(self, *texts: str) -> None:
        """Note what a reader should know."""
        self.warnings.extend(texts)

    def scales(self, placed: Sequence[Placed], layout: StationLayout) -> StationScales:
        """Scales of the stations as the settings want them, with their warnings noted."""
        if len(placed) == 1 or not self.config.standardise_stations:
            return StationScales((1.0,) * len(placed), (), (), ())
        scales = station_scales(placed, layout.order)
        self.warn(*scales.warnings)
        return scales

    def stitched(
        self, channel: str, layout: StationLayout, scales: StationScales, **more: Any
    ) -> None:
        """Note that a channel was stitched."""
        n = len(layout.order)
        done = "one station, left as it is"
        if n > 1:
            done = f"{n} stations, feathered ({layout.method})"
        self.step(
            f"stitch {channel}",
            done,
            stations=n,
            grid=layout.grid.describe(),
            overlaps_mm=[round(v, 2) for v in layout.overlaps_mm],
            scales=[round(scales.scales[i], 5) for i in layout.order],
            mismatch=[None if math.isnan(v) else round(v, 5) for v in scales.mismatch],
            **more,
        )
