"""Config: what people get wrong is named, with the nearest right word."""

from pathlib import Path
from typing import Annotated

import pytest

from megatron_math.base.config import LOCATION, Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road


class Inner(Section):
    share: float = 1.0
    workers: Annotated[int, LOCATION] = 2


class Outer(Section):
    learning_rate: float
    parts: dict[str, Inner] = {}


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"train\.learning_rat.*did you mean 'learning_rate'"):
        parse_section(Outer, {"learning_rate": 1, "learning_rat": 2}, "train")


def test_unknown_key_deep_inside_a_mapping() -> None:
    raw = {"learning_rate": 1, "parts": {"web": {"shar": 3}}}
    with pytest.raises(UserError, match=r"train\.parts\.web\.shar.*did you mean 'share'"):
        parse_section(Outer, raw, "train")


def test_missing_and_wrong_types_are_told_apart() -> None:
    with pytest.raises(UserError, match=r"train\.learning_rate: this key is required"):
        parse_section(Outer, {}, "train")
    with pytest.raises(UserError, match=r"train\.learning_rate: .*found 'fast'"):
        parse_section(Outer, {"learning_rate": "fast"}, "train")


def test_exponents_are_numbers_and_duplicates_are_errors() -> None:
    assert load_yaml("lr: 1e-4", "f") == {"lr": 1e-4}
    assert load_yaml("lr: 3.5E+2", "f") == {"lr": 350.0}
    with pytest.raises(UserError, match=r"f: line 2: the key 'a' is given twice"):
        load_yaml("a: 1\na: 2", "f")


def test_yaml_builds_no_objects() -> None:
    with pytest.raises(UserError, match="not valid YAML"):
        load_yaml("a: !!python/object/apply:os.getcwd []", "f")


def test_identity_leaves_locations_out() -> None:
    first = Outer(learning_rate=1, parts={"web": Inner(workers=1)})
    second = Outer(learning_rate=1, parts={"web": Inner(workers=9)})
    third = Outer(learning_rate=1, parts={"web": Inner(share=2)})
    assert first.identity() == second.identity() != third.identity()


def write_road(folder: Path, text: str) -> Path:
    path = folder / "road.yaml"
    path.write_text(text)
    return path


def test_overrides_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_road(tmp_path, "name: a/b\ntrain: {learning_rate: 1}\nindex: {path: '${WHERE}/x'}")
    monkeypatch.setenv("WHERE", "/data")
    road = Road.load(path, ["train.learning_rate=3e-5"])
    assert road.raw["index"] == {"path": "/data/x"}
    assert road.section("train", Outer).learning_rate == 3e-5
    assert road.root == Path("runs/a/b")
    monkeypatch.delenv("WHERE")
    with pytest.raises(UserError, match=r"\$\{WHERE\}.*no such environment variable"):
        Road.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntrian: {}", "unknown section 'trian'; did you mean 'train'"),
        ("name: ../a", "name"),
        ("train: {}", "name must be like"),
        ("- a", "a mapping of sections is expected"),
    ],
)
def test_bad_roads(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Road.load(write_road(tmp_path, text))


def test_a_missing_road_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Road.load(tmp_path / "nothing.yaml")
