"""From a study's YAML to its roads: one for each shared step, one for each arm and seed.

${STUDY} is the study's folder, ${SEED} an arm's seed; `../base` is another road's folder.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.config import apply_override, expand_environment, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.base.secrets import refuse_secrets
from megatron_math.roads import put_words, write_road_files
from megatron_math.study.config import ARM_KEYS, StudyConfig

STUDY, RUNS, SEED = "${STUDY}", "${RUNS}", "${SEED}"


@dataclass(frozen=True)
class ArmRoad:
    """One arm with one seed. `after`: key of the road whose export it begins with."""

    arm: str
    seed: int
    road: Road
    after: str | None = None
    is_made_elsewhere: bool = False

    @property
    def key(self) -> str:
        return self.road.name.rpartition("/")[2]


@dataclass(frozen=True)
class StudyPlan:
    """All roads; an arm stands behind the one that it begins with, seed by seed."""

    config: StudyConfig
    folder: Path
    shared: list[Road]
    arms: list[ArmRoad]

    def chosen(self, only: Collection[str], seeds: Collection[int]) -> list[ArmRoad]:
        """The roads of these arms and seeds (none named: all), and those that they need."""
        unknown = sorted(set(only) - set(self.config.arms))
        if unknown:
            arms = ", ".join(self.config.arms)
            raise UserError(f"--only {unknown[0]}: there is no such arm; arms are {arms}")
        other = sorted(set(seeds) - set(self.config.seeds))
        if other:
            raise UserError(f"--seeds {other[0]}: the study's seeds are {self.config.seeds}")
        wanted = {
            arm.key
            for arm in self.arms
            if (not only or arm.arm in only) and (not seeds or arm.seed in seeds)
        }
        for arm in reversed(self.arms):
            if arm.key in wanted and arm.after is not None:
                wanted.add(arm.after)
        return [arm for arm in self.arms if arm.key in wanted]


def holds_study(path: Path) -> bool:
    """Whether a file is a study: it has the key `arms`."""
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else None
    return isinstance(raw, dict) and "arms" in raw


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """The study of a YAML file, overrides (`arms.sft.train.lr=1e-4`) applied. UserError as ever."""
    if not path.is_file():
        raise UserError(f"the study file {path} does not exist; give a YAML file's path")
    raw = load_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a mapping is expected, found {raw!r:.80}")
    if "arms" not in raw:
        raise UserError(
            f"{path} has no `arms`, so it is no study; a road is for 'megatron-math run'"
        )
    for override in overrides:
        apply_override(raw, override)
    neutral = put_words(raw, {STUDY: "", RUNS: "", SEED: "0"})
    refuse_secrets(expand_environment(neutral, str(path)), str(path))
    return parse_section(StudyConfig, raw, str(path))


def plan_study(config: StudyConfig, runs: Path, folder: Path | None = None) -> StudyPlan:
    """Write the road files (unchanged ones stay) below `folder`, by default the study's own."""
    root = runs / config.name
    shared = {
        name: put_words(
            {"name": f"{config.name}/{name}", "seed": config.seed, **sections},
            {STUDY: str(root), RUNS: str(runs), SEED: str(config.seed)},
        )
        for name, sections in config.shared.items()
    }
    roads: dict[str, dict[str, Any]] = {}
    described: list[tuple[str, int, str | None]] = []
    made: list[ArmRoad] = []
    for seed in config.seeds:
        for arm in _in_order(config):
            own = config.arms[arm]
            if "made_by" in own:
                made.append(_made_elsewhere(arm, seed, own["made_by"], runs))
                continue
            after = _key_after(config, own.get("after"), seed)
            key = f"{arm}-s{seed}"
            roads[key] = put_words(
                {"name": f"{config.name}/{key}", "seed": seed, **_sections(config, own, after)},
                {STUDY: str(root), RUNS: str(runs), SEED: str(seed)},
            )
            described.append((arm, seed, None if after is None else after.removeprefix("../")))
    place = folder or root
    written = dict(zip(roads, write_road_files(roads, place, runs), strict=True))
    arms = [
        ArmRoad(arm, seed, written[f"{arm}-s{seed}"], after if after in written else None)
        for arm, seed, after in described
    ]
    return StudyPlan(config, root, write_road_files(shared, place, runs), [*made, *arms])


def _in_order(config: StudyConfig) -> list[str]:
    """Arms, each behind the one that it begins with. UserError for a circle."""
    order: list[str] = []
    waiting = list(config.arms)
    while waiting:
        ready = [a for a in waiting if config.arms[a].get("after") in (None, *order)]
        if not ready:
            raise UserError(f"arms {', '.join(waiting)}: each is to begin after another of them")
        order += ready
        waiting = [arm for arm in waiting if arm not in ready]
    return order


def _key_after(config: StudyConfig, after: str | None, seed: int) -> str | None:
    """The road that an arm begins with, as `base.run` names it."""
    if after is None:
        return None
    elsewhere = config.arms[after].get("made_by")
    return f"../{after}-s{seed}" if elsewhere is None else f"../../{elsewhere}-s{seed}"


def _made_elsewhere(arm: str, seed: int, made_by: str, runs: Path) -> ArmRoad:
    root = runs / f"{made_by}-s{seed}"
    file = root / "road.yaml"
    raw = {"name": f"{made_by}-s{seed}", "seed": seed}
    road = (
        Road.load(file, (), runs)
        if file.is_file()
        else Road(raw["name"], seed, runs, root, file, (), raw)  # type: ignore[arg-type]
    )
    return ArmRoad(arm, seed, road, None, is_made_elsewhere=True)


def _sections(config: StudyConfig, own: dict[str, Any], after: str | None) -> dict[str, Any]:
    """The arm's sections over those of all arms."""
    sections = {key: value for key, value in own.items() if key not in ARM_KEYS}
    merged = laid_over(config.road, sections)
    if after is not None:
        merged["base"] = {"run": after}
    assert isinstance(merged, dict)
    return merged


def laid_over(below: Any, above: Any) -> Any:
    """`above` over `below`, mappings key by key; null takes a key away."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return copy.deepcopy(above)
    merged = {key: copy.deepcopy(value) for key, value in below.items() if key not in above}
    for key, value in above.items():
        if value is not None:
            merged[key] = (
                laid_over(below.get(key), value) if key in below else _without_nulls(value)
            )
    return {key: merged[key] for key in (*below, *above) if key in merged}


def _without_nulls(value: Any) -> Any:
    if not isinstance(value, dict):
        return copy.deepcopy(value)
    return {key: _without_nulls(item) for key, item in value.items() if item is not None}
