"""Which DWI protocol to use, and where its b1000 channel comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from osteosap.errors import VolumeError
from osteosap.preprocess.config import PreprocessConfig
from osteosap.preprocess.groups import DwiGroup

__all__ = ["B1000Choice", "b_values_for_adc", "choose_b1000", "choose_group"]

TARGET_B = 1000.0
"""s/mm2; the paper's diffusion channel."""
LARGE_ENOUGH = 0.8
"""Groups that cover at least this share of what the largest one covers compete."""


@dataclass(frozen=True)
class B1000Choice:
    """Where the b1000 channel comes from.

    Parameters
    ----------
    source
        "acquired", "computed", "nearest", or "handed over" (a file the user named b1000).
    b_value_s_per_mm2
        The acquired b-value used, or 1000 where computed.
    reason
        One sentence for the record.
    """

    source: str
    b_value_s_per_mm2: float
    reason: str


def choose_group(groups: Sequence[DwiGroup], *, config: PreprocessConfig) -> tuple[DwiGroup, str]:
    """Pick the DWI protocol that b1000 and ADC come from, and say why.

    Among protocols that cover about the same (80 % of the largest): one with an acquired
    b-value near 1000; then the most different b-values; then one with b0; then the name.
    """
    largest = max(g.extent_ml for g in groups)
    rivals = [g for g in groups if g.extent_ml >= LARGE_ENOUGH * largest]
    best = min(
        rivals,
        key=lambda g: (
            not _acquired(g.b_values, config),
            -len(g.b_values),
            0.0 not in g.b_values,
            g.name,
        ),
    )
    listed = _listed(best.b_values)
    if len(groups) == 1:
        return best, f"the only DWI protocol (b {listed})"
    if len(rivals) == 1:
        why = "it covers the most"
    elif _acquired(best.b_values, config):
        why = "it has an acquired b-value near 1000"
    elif all(len(g.b_values) < len(best.b_values) for g in rivals if g is not best):
        why = "none near 1000 was acquired and it has the most b-values"
    else:
        why = "none near 1000 was acquired; among those with most b-values, b0 and name decide"
    others = "; ".join(_listed(g.b_values) for g in groups if g is not best)
    return best, f"of {len(groups)} DWI protocols that with b {listed}: {why} (others: b {others})"


def b_values_for_adc(b_values: Sequence[float], *, config: PreprocessConfig) -> tuple[float, ...]:
    """The b-values to fit: those of at least ``min_b_for_adc_s_per_mm2`` if two remain, else all.

    Empty where fewer than two exist, so that no fit is possible.
    """
    if len(set(b_values)) < 2:
        return ()
    high = tuple(b for b in b_values if b >= config.min_b_for_adc_s_per_mm2)
    return high if len(set(high)) >= 2 else tuple(b_values)


def choose_b1000(b_values: Sequence[float], *, config: PreprocessConfig) -> B1000Choice:
    """Decide where b1000 comes from: acquired, computed from the fit, or the nearest acquired.

    Raises
    ------
    VolumeError
        None of the three is sound.
    """
    low, high = config.acquired_b1000_s_per_mm2
    acquired = _acquired(b_values, config)
    if acquired:
        b = min(acquired, key=lambda v: abs(v - TARGET_B))
        return B1000Choice("acquired", b, f"b{b:g} was acquired ({low:g}-{high:g} counts as b1000)")
    fitted = b_values_for_adc(b_values, config=config)
    if fitted and max(fitted) >= config.min_top_b_s_per_mm2:
        kind = "interpolated" if max(fitted) > TARGET_B else "extrapolated"
        return B1000Choice(
            "computed",
            TARGET_B,
            f"no b-value in {low:g}-{high:g} was acquired; b1000 is computed ({kind}) from the "
            f"mono-exponential fit of b {_listed(fitted)}",
        )
    near = [
        b for b in b_values if config.nearest_b_s_per_mm2[0] <= b <= config.nearest_b_s_per_mm2[1]
    ]
    if near:
        b = min(near, key=lambda v: abs(v - TARGET_B))
        return B1000Choice(
            "nearest",
            b,
            f"no b-value in {low:g}-{high:g} was acquired and no fit is possible; "
            f"b{b:g} is the nearest",
        )
    raise VolumeError(
        f"no b1000 image can be had from b-values {_listed(b_values)}; expected one in "
        f"{config.nearest_b_s_per_mm2[0]:g}-{config.nearest_b_s_per_mm2[1]:g}, or two of which "
        f"the higher reaches {config.min_top_b_s_per_mm2:g}",
        remedy="Add the high-b series of the DWI to the study",
    )


def _acquired(b_values: Sequence[float], config: PreprocessConfig) -> list[float]:
    low, high = config.acquired_b1000_s_per_mm2
    return [b for b in b_values if low <= b <= high]


def _listed(b_values: Sequence[float]) -> str:
    return "/".join(f"{b:g}" for b in b_values)
