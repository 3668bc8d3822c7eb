"""Every public name can be imported, is documented, and is where ``__all__`` says."""

import importlib
import inspect
import pkgutil

import pytest

import osteosap
from osteosap import errors

MODULES = [m.name for m in pkgutil.walk_packages(osteosap.__path__, "osteosap.")]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_and_has_every_name_it_promises(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), "no docstring"
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip(), f"{public} has no docstring"


def test_the_version_is_that_of_the_project(repository):
    import tomllib

    content = tomllib.loads((repository / "pyproject.toml").read_text())
    assert osteosap.__version__ == content["project"]["version"]


def test_every_error_is_an_osteosap_error_and_drawn_in_the_tree():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.OsteosapError)
        assert name in errors.__doc__
