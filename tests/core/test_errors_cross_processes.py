import pickle

import pytest

import osteosap.errors
from osteosap.errors import OsteosapError


@pytest.mark.parametrize("name", osteosap.errors.__all__)
def test_an_error_survives_the_way_from_a_worker_process(name: str) -> None:
    error = getattr(osteosap.errors, name)("3 apples, expected 4", remedy="Buy one")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, OsteosapError)
    assert type(again) is type(error)
    assert str(again) == str(error) == "3 apples, expected 4. Buy one."
