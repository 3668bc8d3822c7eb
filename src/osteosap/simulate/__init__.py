"""Simulated whole-body MRI with known truth: anatomy, tissue, lesions, scanner.

Everything here is simulated and must be called so wherever it is shown.
"""

from osteosap.simulate.exam import SimulatedExam, SimulationConfig, simulate_exam
from osteosap.simulate.scanner import ScannerConfig
from osteosap.simulate.signals import SequenceConfig

__all__ = ["ScannerConfig", "SequenceConfig", "SimulatedExam", "SimulationConfig", "simulate_exam"]
