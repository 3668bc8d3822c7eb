"""Simulated whole-body MRI with known truth: anatomy, tissue, lesions, scanner.

Everything here is simulated and must be called so wherever it is shown.
"""

from osteosap.simulate.exam import (
    AnatomySource,
    SimulatedExam,
    SimulationConfig,
    planned_lesions,
    simulate_exam,
    simulate_scene,
)
from osteosap.simulate.scanner.protocol import ScannerConfig
from osteosap.simulate.signals import SequenceConfig

__all__ = [
    "AnatomySource",
    "ScannerConfig",
    "SequenceConfig",
    "SimulatedExam",
    "SimulationConfig",
    "planned_lesions",
    "simulate_exam",
    "simulate_scene",
]
