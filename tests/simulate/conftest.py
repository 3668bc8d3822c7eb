import pytest

from osteosap.simulate import SimulatedExam, SimulationConfig, simulate_exam

COARSE = {
    "stations": {"count": 3, "overlap_mm": 30.0},
    "t1": {"spacing_mm": (5.0, 5.0, 5.0)},
    "dwi": {"spacing_mm": (6.0, 6.0, 5.0)},
}


@pytest.fixture(scope="session")
def coarse() -> SimulationConfig:
    """A patient at 5 mm: seconds to make."""
    return SimulationConfig(seed=7, lesions=10, body_spacing_mm=(5.0, 5.0, 5.0), scanner=COARSE)


@pytest.fixture(scope="session")
def patient(coarse: SimulationConfig) -> SimulatedExam:
    return simulate_exam(coarse)
