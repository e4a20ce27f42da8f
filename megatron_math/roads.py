"""Several roads in one file, run one after another: a loop such as JiuZhang3.0's.

    name: jiuzhang3
    seed: 42
    defaults: {blend: {sequence_length: 2048}}   # beneath the section of each road that has one
    roads:
      first: {synthesize: {...}}                 # runs/jiuzhang3/first
      synthesizer: {base: ..., index: {sources: {x: {path: "${LOOP}/first/10_synthesize/..."}}}}

Each road is written to its own folder as road.yaml, and is from there on a road like any other:
every verb takes it. `${LOOP}` is the folder of all of them, `../first` another road's where a key
is relative to the road's own.
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from megatron_math.base.config import apply_override, expand_environment, load_yaml
from megatron_math.base.errors import UserError
from megatron_math.base.files import write_text
from megatron_math.base.road import SECTIONS, Road
from megatron_math.base.secrets import refuse_secrets

KEYS = ("name", "seed", "defaults", "roads")
LOOP = "${LOOP}"


def holds_roads(path: Path) -> bool:
    """Whether a file is a loop: it has the key `roads`."""
    if not path.is_file():
        return False
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path))
    return isinstance(raw, dict) and "roads" in raw


def write_roads(
    path: Path, overrides: list[str], runs: Path, folder: Path | None = None
) -> list[Road]:
    """The roads of a loop, in their order, each with its own file; unchanged files stay.

    overrides: `roads.first.synthesize.limit=10`. folder: where road files go, in the place of the
    roads' own folders. Raises UserError for an unknown key, a bad name, and whatever a road's own
    file may not hold.
    """
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path))
    for override in overrides:
        apply_override(raw, override)
    _check(raw, path)
    refuse_secrets(expand_environment(put_words(raw, {LOOP: ""}), str(path)), str(path))
    name, seed = raw["name"], raw.get("seed", 1234)
    roads = {}
    for own, sections in raw["roads"].items():
        road = {"name": f"{name}/{own}", "seed": seed}
        road |= _over(raw.get("defaults") or {}, sections)
        roads[own] = put_words(road, {LOOP: str(runs / name)})
    return write_road_files(roads, folder or runs / name, runs)


def write_road_files(roads: Mapping[str, Any], folder: Path, runs: Path) -> list[Road]:
    """Each road in a file of its own, `folder`/<its name there>/road.yaml; unchanged files stay."""
    loaded = []
    for own, road in roads.items():
        text = yaml.safe_dump(road, sort_keys=False, allow_unicode=True, width=100)
        file = folder / own / "road.yaml"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
        loaded.append(Road.load(file, (), runs))
    return loaded


def _check(raw: dict[str, Any], path: Path) -> None:
    if unknown := [str(key) for key in raw if key not in KEYS]:
        raise UserError(
            f"{path}: unknown key '{unknown[0]}'; a file with roads has {', '.join(KEYS)}"
        )
    if not isinstance(raw.get("name"), str) or not re.fullmatch(r"[\w.-]+", raw["name"]):
        raise UserError(f"{path}: name must be like 'jiuzhang3', found {raw.get('name')!r}")
    roads, defaults = raw["roads"], raw.get("defaults") or {}
    if not isinstance(roads, dict) or not roads or not isinstance(defaults, dict):
        raise UserError(f"{path}: 'roads' and 'defaults' are mappings, 'roads' with one at least")
    for own, sections in roads.items():
        if not isinstance(own, str) or not re.fullmatch(r"\w[\w.-]*", own):
            raise UserError(f"{path}: a road's name must be like 'first', found {own!r}")
        if not isinstance(sections, dict) or "name" in sections:
            raise UserError(
                f"{path}: roads.{own} is a mapping of sections without a name, found {sections!r}"
            )
    used = {section for sections in roads.values() for section in sections}
    for section in defaults:
        if section not in SECTIONS or section not in used:
            raise UserError(f"{path}: defaults.{section} has no effect: no road has this section")


def _over(defaults: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """A road's sections, each over its default."""
    return {key: _merged(defaults.get(key), value) for key, value in sections.items()}


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return copy.deepcopy(above)
    both = {key: _merged(below.get(key), value) for key, value in above.items()}
    return {key: copy.deepcopy(value) for key, value in below.items() if key not in above} | both


def put_words(value: Any, words: Mapping[str, str]) -> Any:
    """`value` with the words' meanings in their places, in every string of it."""
    if isinstance(value, str):
        for word, meaning in words.items():
            value = value.replace(word, meaning)
        return value
    if isinstance(value, dict):
        return {key: put_words(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [put_words(item, words) for item in value]
    return value
