"""Stage 10_synthesize by a method that begins with seeds: ask, read, check, write.

Reads seeds and a folder of prompts, if there is one. Writes problems.jsonl, drops/problems.jsonl,
disputed.jsonl, stats.json; answers/<role>/answers.jsonl keeps what engines answered. A killed run
asks only what has no answer yet.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from megatron_math.base.log import log
from megatron_math.base.road import Road
from megatron_math.base.signals import remember_stops
from megatron_math.base.stage import Stage, StageInput
from megatron_math.engine.kept import KeptEngine
from megatron_math.engine.open import fingerprint_of_model, open_engine
from megatron_math.synthesize.audit import Audit
from megatron_math.synthesize.driver import Driver
from megatron_math.synthesize.excerpt_config import ExcerptsConfig
from megatron_math.synthesize.method_config import (
    CheckedByModels,
    FromProblems,
    SeededConfig,
    TutorshipConfig,
)
from megatron_math.synthesize.methods.diversification import Diversification
from megatron_math.synthesize.methods.excerpts import Excerpts
from megatron_math.synthesize.methods.expansion import Expansion
from megatron_math.synthesize.methods.rejection import Rejection
from megatron_math.synthesize.methods.retrospective import Retrospective
from megatron_math.synthesize.methods.tutorship import Tutorship
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.seeds import Seeds, find_paths
from megatron_math.synthesize.source_texts import SourceTexts
from megatron_math.synthesize.tally import Tally
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import Seed, Voice, Work

ANSWERS = "answers"
LOG_INTERVAL_S = 10.0


class Method(Protocol):
    """unique: what makes two of its candidates one."""

    unique: Literal["problem", "both"]

    @property
    def prompt(self) -> str | None:
        """Its main one; None where each record tells its own."""

    def work(self, seed: Seed) -> Work:
        """The work on one seed."""


METHODS: Mapping[str, Callable[..., Method]] = {
    "expansion": Expansion,
    "diversification": Diversification,
    "retrospective": Retrospective,
    "tutorship": Tutorship,
    "rejection": Rejection,
    "excerpts": Excerpts,
}


def open_stage(road: Road, config: SeededConfig, folder: Path) -> Stage:
    """The stage with all that decides its result: seeds, prompts and local models by content."""
    inputs: dict[str, StageInput | Path] = {
        f"{name} {number}": path
        for name, paths in _paths(road, config).items()
        for number, path in enumerate(paths)
    }
    if config.prompts is not None:
        Prompts(config.language, config.prompts)  # refuses a folder that cannot be used
        inputs["prompts"] = config.prompts
    for role, engine in config.engines().items():
        if engine.hf is not None:
            place = engine.hf.folder
            inputs[role] = StageInput(place, fingerprint_of_model(place))
    return Stage(folder, config={"synthesize": config}, inputs=inputs, seed=road.seed)


def _paths(road: Road, config: SeededConfig) -> dict[str, list[Path]]:
    """By the name of the place in the configuration, the files there."""
    found = {}
    for name, place in config.places().items():
        path = place.path
        if path is None:
            assert place.stage is not None
            assert place.file is not None
            path = str(road.done(place.stage).path / place.file)
        found[name] = find_paths(path, name)
    return found


def _open_seeds(road: Road, config: SeededConfig) -> Seeds | SourceTexts:
    paths = _paths(road, config)
    if isinstance(config, ExcerptsConfig):
        return SourceTexts(config, paths, road.seed)
    assert isinstance(config, FromProblems)
    return Seeds(config.seeds, paths["seeds"])


def write(road: Road, config: SeededConfig, stage: Stage, first: int = 0, step: int = 1) -> None:
    """Do the work of a stage that has begun, on its seeds or every `step`-th from `first` on.

    Raises StoppedOnRequest after SIGTERM, SIGINT or SIGUSR1, and when a budget is spent.
    """
    seeds = _open_seeds(road, config)
    progress = _Progress(config.method, -(-(seeds.count_rows() - first) // step))
    prompts = Prompts(config.language, config.prompts)
    voices = {role: Voice(role, own, road.seed) for role, own in config.engines().items()}
    checks = _checks(config, voices, prompts)
    method = METHODS[config.method](config, voices, prompts, checks, road.seed)
    with remember_stops("synthesize") as stopping, ExitStack() as stack:
        engines = {
            role: stack.enter_context(
                open_engine(voice.config, stage.folder / ANSWERS / role, stopping=stopping)
            )
            for role, voice in voices.items()
        }
        driver = Driver(engines, config.window, stopping)
        audit = Audit(config, checks, road.seed)
        if first == 0:  # one shard pays for all
            for _ in driver.run(audit.works(seeds)):
                pass
        about = _about(config, voices, prompts, method.prompt)
        if isinstance(method, AbstractContextManager):
            stack.enter_context(method)
        distil = isinstance(config, ExcerptsConfig)
        tally = stack.enter_context(
            Tally(stage.folder, config.method, config.accept, method.unique, about, distil)
        )
        begun: deque[Seed] = deque()

        def works() -> Iterator[Work]:
            for seed in islice(seeds, first, None, step):
                begun.append(seed)
                yield method.work(seed)

        for outcome in driver.run(works()):
            tally.add(begun.popleft(), outcome)
            progress.report(tally)
        stats = tally.stats() | {"passed_over": dict(seeds.passed_over)}
        stats |= _costs(driver, engines, voices, tally.accepted)
        if config.audit and first == 0:
            stats["audit"] = audit.counts()
    stage.finish(stats=stats, outputs=tally.outputs)
    if failures := tally.rejects["no answer"]:
        log.warning(
            "synthesize: %d requests had no answer; to ask them again, remove %s and give the same "
            "command", failures, stage.folder / "DONE",
        )  # fmt: skip
    log.info(
        "synthesize: %d records of %d seeds, %d dropped, in %s",
        tally.accepted, tally.seeds, sum(tally.rejects.values()), stage.folder,
    )  # fmt: skip


def _checks(config: SeededConfig, voices: Mapping[str, Voice], prompts: Prompts) -> Checks:
    """A teacher reads candidates everywhere but in tutorship, whose method it is itself."""
    return Checks(
        config.accept,
        prompts,
        agreement=config.agreement if isinstance(config, CheckedByModels) else None,
        solver=voices.get("engine"),
        teacher=None if isinstance(config, TutorshipConfig) else voices.get("teacher"),
    )


def _about(
    config: SeededConfig, voices: Mapping[str, Voice], prompts: Prompts, prompt: str | None
) -> dict[str, Any]:
    """`meta` keys that all records of a stage share: who wrote them, asked with which prompt."""
    about: dict[str, Any] = {"language": config.language}
    writer = voices.get("teacher" if isinstance(config, TutorshipConfig) else "engine")
    if writer is not None:
        about["model"] = writer.model
        if prompt is not None:
            about["prompt_sha256"] = prompts.sha256(prompt)
    return about


def _costs(
    driver: Driver, engines: Mapping[str, KeptEngine], voices: Mapping[str, Voice], accepted: int
) -> dict[str, Any]:
    """By role what was asked for and what the folder of answers says was spent, ever."""
    costs: dict[str, Any] = {}
    for role, engine in engines.items():
        budget, spent = voices[role].config.budget, engine.budget.spent
        money = spent.prompt_tokens * budget.price_in + spent.new_tokens * budget.price_out
        costs[role] = {
            "requests": driver.requests[role],
            "answered": driver.answered[role],
            "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens,
            "new_tokens": spent.new_tokens,
            "money": round(money / 1e6, 6),
        }
    new_tokens = sum(cost["new_tokens"] for cost in costs.values())
    return {
        "cost": costs,
        "new_tokens_per_accepted": round(new_tokens / accepted, 1) if accepted else None,
    }


class _Progress:
    """A line every ten seconds: how far, how many accepted, how fast, how long still."""

    def __init__(self, method: str, rows: int) -> None:
        self._method = method
        self._rows = rows
        self._began_s = self._logged_s = time.monotonic()

    def report(self, tally: Tally) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s < LOG_INTERVAL_S:
            return
        self._logged_s = now_s
        rate = tally.seeds / (now_s - self._began_s)
        log.info(
            "synthesize: %s, %s of %s seeds, %s accepted (%.2f a seed), %.1f seeds/s, %.0f s left",
            self._method, f"{tally.seeds:,}", f"{self._rows:,}", f"{tally.accepted:,}",
            tally.accepted / tally.seeds, rate, max(0, self._rows - tally.seeds) / rate,
        )  # fmt: skip
