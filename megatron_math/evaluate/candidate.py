"""Who is asked: a model of this road, or one that the section names; or why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file, sha256_json
from megatron_math.base.road import Road
from megatron_math.base.stage import StageInput
from megatron_math.checkpoint.folders import COMPLETE, RELEASE, TRACKER, folder_name, tracked
from megatron_math.engine.config import EngineConfig, LocalConfig, VllmConfig
from megatron_math.engine.interface import Engine
from megatron_math.engine.kept import KeptEngine
from megatron_math.engine.open import LateEngine, make_engine
from megatron_math.engine.open import who as who_of
from megatron_math.evaluate.config import EvaluateConfig

OpenEngine = Callable[[Path], Engine]


@dataclass(frozen=True)
class Candidate:
    """who: its folder below 70_evaluate. made_by: the stage that its model is of, if it is of one.

    model: where that model lies. missing: why there is none to ask.
    """

    who: str
    made_by: StageInput | None = None
    model: Path | None = None
    missing: str | None = None
    named: EngineConfig | None = None

    def identity(self) -> dict[str, Any]:
        """All that tells its answers from another's."""
        found: dict[str, Any] = {} if self.named is None else who_of(self.named)
        if self.made_by is not None:
            found["made_by"] = self.made_by.fingerprint
        return found

    @property
    def fingerprint(self) -> str:
        if self.named is None and self.made_by is not None:
            return self.made_by.fingerprint
        return sha256_json(self.identity())


def find(road: Road, config: EvaluateConfig, who: str) -> Candidate:
    """The candidate. UserError where the stage that makes it has not been done."""
    named = config.engine if isinstance(config.engine, EngineConfig) else None
    if who == "other":
        return Candidate(who, named=named)
    if who == "after":
        if config.engine == "megatron":
            return Candidate(who, *_newest(road))
        export = road.done("60_export")
        return Candidate(who, export, export.path / "hf", named=named)
    if not road.has("base"):
        return Candidate(who, missing="this road has no base")
    base = road.done("00_base")
    if not (base.path / "hf").is_dir():
        reason = "the base is fresh weights, which have learned nothing yet"
        return Candidate(who, missing=reason)
    is_core = config.engine == "megatron"
    model = base.path / "checkpoint" / RELEASE if is_core else base.path / "hf"
    return Candidate(who, base, model, named=named)


def _newest(road: Road) -> tuple[StageInput, Path]:
    """The newest checkpoint of 50_train as an input."""
    save = road.done("50_train").path / "checkpoints"
    number = tracked(save) if (save / TRACKER).is_file() else None
    folder = save / folder_name(number)
    if number is None or not (folder / COMPLETE).is_file():
        raise UserError(f"{save} holds no whole checkpoint that {TRACKER} names; train first")
    return StageInput(folder, sha256_file(folder / COMPLETE)), folder


def open_kept(
    candidate: Candidate,
    config: EvaluateConfig,
    folder: Path,
    *,
    open_engine: OpenEngine | None,
    stopping: Callable[[], bool],
) -> KeptEngine:
    """Its engine, with the answers of all candidates in `folder`. A model in this process is loaded
    when the first answer is missing; `open_engine` makes it from its folder, where given."""
    settings = candidate.named
    if settings is None:
        assert candidate.model is not None
        settings = _settings(config, candidate.model)
    if settings.server is not None:
        engine = make_engine(settings)
    elif open_engine is not None and candidate.model is not None:
        model = candidate.model
        engine = LateEngine(lambda: _with_blocks(open_engine(model), config.batch_size))
    else:
        chosen = settings
        engine = LateEngine(lambda: make_engine(chosen))
    who = candidate.identity() | {"dtype": config.dtype}
    if isinstance(config.engine, str):
        who["engine"] = config.engine
    return KeptEngine(engine, folder, who=who, budget=settings.budget, stopping=stopping)


def _settings(config: EvaluateConfig, model: Path) -> EngineConfig:
    if config.engine == "vllm":
        return EngineConfig(vllm=VllmConfig(folder=model, dtype=config.dtype))
    local = LocalConfig(folder=model, dtype=config.dtype, batch_size=config.batch_size)
    if config.engine == "megatron":
        return EngineConfig(megatron=local)
    return EngineConfig(hf=local)


def _with_blocks(engine: Engine, batch_size: int) -> Engine:
    """A block is what a kill costs. Prompts of about equal length are put together within it, so it
    is more than one batch; two, since 512 rows of a slow model are minutes of work."""
    engine.in_flight = 2 * batch_size
    return engine
