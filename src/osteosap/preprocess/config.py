"""Settings of the preprocessing stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteosap.config import StageConfig
from osteosap.preprocess.align import AlignConfig
from osteosap.preprocess.bias import BiasConfig
from osteosap.preprocess.eddy import EddyConfig
from osteosap.preprocess.quality import QualityConfig
from osteosap.preprocess.register import DwiRegistrationConfig

__all__ = ["PreprocessConfig"]


class PreprocessConfig(StageConfig):
    """How station images become one exam on the T1 grid.

    The ADC defaults (unweighted log-linear fit over all b-values) are the model that the scanner
    itself fits on the one real study at hand (Siemens 3 T pelvis, b 0/100/400/800), and were chosen
    for that: ``benchmarks/adc_real_pelvis.py`` finds a median absolute difference of 2.9 % from
    the scanner's map, 10.2 % with weights S^2 and 11.4 % without b0. The methods agree; which of
    them is nearer the truth this cannot show, and other scanners were not tried.
    """

    bias: BiasConfig = BiasConfig()
    """Bias field of the coils, per station of T1 and DWI."""
    align: AlignConfig = AlignConfig()
    """Stations of T1 onto their inner neighbour."""
    standardise_stations: bool = True
    """Scale stations so that they agree in overlaps and, on DWI, in muscle; then even overlaps."""
    eddy: EddyConfig = EddyConfig()
    """Higher b-values onto the lowest one of their station."""
    registration: DwiRegistrationConfig = DwiRegistrationConfig()
    """Every DWI station to the stitched T1."""
    correct_handed_over: bool = False
    """Correct bias and position of images that were handed over by name, too."""
    adc_source: Literal["fit", "scanner"] = "fit"
    """Which ADC to prefer where both can be had."""
    adc_weighting: Literal["none", "signal"] = "none"
    """Least-squares weights of the ADC fit: equal, or the squared signal."""
    min_b_for_adc_s_per_mm2: float = Field(default=0.0, ge=0)
    """Leave lower b-values out of the fit if two others remain (50 avoids perfusion)."""
    noise_floor_fraction: float = Field(default=0.001, ge=0, lt=0.5)
    """Signals below this fraction of the lowest b-value's 99th percentile count as this floor."""
    acquired_b1000_s_per_mm2: tuple[float, float] = (950.0, 1050.0)
    """An acquired b-value in this range is the b1000 channel as it is."""
    nearest_b_s_per_mm2: tuple[float, float] = (800.0, 1200.0)
    """Without a fit, the acquired b-value nearest 1000 is taken if it lies in this range."""
    min_top_b_s_per_mm2: float = Field(default=500.0, gt=0)
    """b1000 is computed from the fit only if the highest fitted b-value reaches this."""
    min_coverage: float = Field(default=0.10, ge=0, le=1)
    """Smallest share of the T1 body that the DWI must cover."""
    quality: QualityConfig = QualityConfig()
    """What is expected of an exam; what lies outside is warned of."""

    @property
    def needs_simpleitk(self) -> bool:
        """Whether a step is on that SimpleITK does."""
        return any(
            (
                self.bias.method == "n4" and self.bias.enabled,
                self.align.enabled,
                self.eddy.enabled,
                self.registration.enabled,
            )
        )
