"""The three arms that are compared: what each starts from and at which rates it learns.

============  =====================================================  ==================
arm           initial weights                                        paper's rates
============  =====================================================  ==================
``baseline``  random                                                 1e-5 / 1e-5
``ssl``       encoder of a self-supervised training; decoder random  5e-6 / 1e-5
``sap``       encoder and decoder of a skeleton network; new head    2e-6 / 1e-5
============  =====================================================  ==================

Rates are those of encoder and decoder (Wuts et al. 2026, doi 10.1016/j.jbo.2026.100745).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from osteosap.config import StageConfig
from osteosap.errors import ConfigError

__all__ = ["ARMS", "PAPER_RATES", "Arm", "ArmRates", "InitialWeights", "RateSearchConfig"]

Arm = Literal["baseline", "ssl", "sap"]

ARMS: tuple[Arm, ...] = ("baseline", "ssl", "sap")


class ArmRates(StageConfig):
    """Base learning rates."""

    encoder_learning_rate: float = Field(gt=0.0)
    decoder_learning_rate: float = Field(gt=0.0)

    def name(self) -> str:
        """For folders: ``encoder_2e-06_decoder_1e-05``."""
        return f"encoder_{self.encoder_learning_rate:g}_decoder_{self.decoder_learning_rate:g}"


PAPER_RATES: dict[Arm, ArmRates] = {
    "baseline": ArmRates(encoder_learning_rate=1e-5, decoder_learning_rate=1e-5),
    "ssl": ArmRates(encoder_learning_rate=5e-6, decoder_learning_rate=1e-5),
    "sap": ArmRates(encoder_learning_rate=2e-6, decoder_learning_rate=1e-5),
}


class RateSearchConfig(StageConfig):
    """The search that gives every arm its rates: equal for all arms, since it is in the recipe.

    ``rates`` are tried as encoder and decoder rates in all pairs in which the encoder's is not
    the larger; each pair for ``steps`` steps with a whole schedule of its own.
    """

    rates: tuple[float, ...] = Field(default=(2e-4, 8e-4, 2e-3, 4e-3), min_length=1)
    steps: int = Field(default=300, ge=1)

    @model_validator(mode="after")
    def _rates_are_above_zero_and_differ(self) -> Self:
        if min(self.rates) <= 0.0 or len(set(self.rates)) != len(self.rates):
            raise ValueError(f"rates {self.rates}, expected different values above 0")
        return self

    def grid(self) -> list[ArmRates]:
        """Pairs of rates, the gentlest first."""
        rates = sorted(self.rates)
        return [
            ArmRates(encoder_learning_rate=encoder, decoder_learning_rate=decoder)
            for decoder in rates
            for encoder in rates
            if encoder <= decoder
        ]


@dataclass(frozen=True)
class InitialWeights:
    """Weight file that fine-tuning starts from; none means random weights.

    Parameters
    ----------
    skeleton
        From the skeleton recipe (arm ``sap``).
    self_supervised
        From the self-supervised recipe (arm ``ssl``).

    Raises
    ------
    ConfigError
        Both are given.
    """

    skeleton: Path | None = None
    self_supervised: Path | None = None

    def __post_init__(self) -> None:
        if self.skeleton is not None and self.self_supervised is not None:
            raise ConfigError(
                "skeleton and self-supervised weights were both given, expected one of them",
                remedy="Use --skeleton for arm sap or --self-supervised for arm ssl",
            )

    @property
    def arm(self) -> Arm:
        """Arm that starts so."""
        if self.skeleton is not None:
            return "sap"
        return "baseline" if self.self_supervised is None else "ssl"

    @property
    def path(self) -> Path | None:
        """The file."""
        return self.skeleton or self.self_supervised
