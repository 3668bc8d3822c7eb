from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osteosap.config import StageConfig, canonical_hash
from osteosap.errors import ConfigError, OsteosapError


class Inner(StageConfig):
    radius_mm: float = 2.0


class Outer(StageConfig):
    count: int = 3
    inner: Inner = Inner()


class Files(StageConfig):
    one: Path
    more: tuple[Path | None, ...] = ()


def test_an_empty_file_means_all_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert Outer.from_yaml(tmp_path / "c.yaml") == Outer()


def test_settings_come_from_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("count: 5\ninner:\n  radius_mm: 1.5\n")
    assert Outer.from_yaml(tmp_path / "c.yaml") == Outer(count=5, inner=Inner(radius_mm=1.5))


def test_an_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'cuont'.*Known settings: count, inner"):
        Outer.from_mapping({"cuont": 5})


def test_a_wrong_value_in_a_nested_block_is_named_by_its_path():
    with pytest.raises(ConfigError, match=r"inner\.radius_mm.*'wide'"):
        Outer.from_mapping({"inner": {"radius_mm": "wide"}})


def test_an_unknown_key_of_a_block_is_named_with_what_that_block_knows():
    with pytest.raises(ConfigError, match=r"'inner\.raduis'.*Known settings of inner: radius_mm\."):
        Outer.from_mapping({"inner": {"raduis": 5}})
    with pytest.raises(ConfigError, match=r"'inner'.*Known settings: count, inner\."):
        Outer.from_mapping({"inner": 3})


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf"])
def test_a_number_that_is_not_finite_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"inner: {{radius_mm: {text}}}\n")
    with pytest.raises(ConfigError, match=r"inner\.radius_mm"):
        Outer.from_yaml(tmp_path / "c.yaml")


def test_a_binary_file_is_a_config_error(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(ConfigError, match="no text file"):
        Outer.from_yaml(tmp_path / "c.yaml")


def test_a_folder_in_the_place_of_a_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Outer.from_yaml(tmp_path)


def test_a_record_names_files_without_their_folders():
    config = Files(one=Path("/home/doe_john/net.safetensors"), more=(Path("a/b"), None))
    assert config.to_record() == {"one": "net.safetensors", "more": ["b", None]}
    assert "doe_john" in config.to_mapping()["one"]


@pytest.mark.parametrize("text", ["- a\n- b\n", "{", "just words"])
def test_a_file_that_is_no_mapping_is_a_config_error(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        Outer.from_yaml(tmp_path / "c.yaml")


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        Outer.from_yaml(tmp_path / "c.yaml")


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Outer().count = 4


def test_equal_settings_have_equal_hashes_and_others_do_not():
    assert Outer().hash() == Outer(count=3).hash()
    assert Outer().hash() != Outer(count=4).hash()


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_a_hash_does_not_hang_on_the_order_of_keys(values):
    assert canonical_hash(values) == canonical_hash(dict(reversed(values.items())))


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
def test_settings_survive_a_round_trip_through_plain_values(count, radius):
    config = Outer(count=count, inner=Inner(radius_mm=radius))
    assert Outer.from_mapping(config.to_mapping()) == config


def test_an_error_says_problem_and_remedy_as_two_sentences():
    error = OsteosapError("the value is 3, expected 4.", remedy="Change it")
    assert str(error) == "the value is 3, expected 4. Change it."
