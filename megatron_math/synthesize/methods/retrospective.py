"""Retrospective enhancement: a later step early, a mark `[back]`, then the right step.

Without an engine the later step is taken as it stands; with one, a model writes it in its own
words. Either way, deleting what is taken back leaves the correct solution, character for character.
"""

import random
from collections.abc import Mapping
from typing import Any, Literal

from megatron_math.synthesize.method_config import RetrospectiveConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.steps import (
    BACK,
    delete_back,
    splice,
    split_steps,
    states_answer,
    with_mark,
)
from megatron_math.synthesize.tags import Unusable, read_tags
from megatron_math.synthesize.verdicts.asked import Checks
from megatron_math.synthesize.work import (
    Candidate,
    Outcome,
    Reject,
    Seed,
    Voice,
    Work,
    draw_seed,
    whole,
)

PROMPT = "retrospective.slip"
TAGS = ("Place", "Slip")


class Retrospective:
    """At most one candidate a seed."""

    prompt = PROMPT
    unique: Literal["problem", "both"] = "both"

    def __init__(
        self,
        config: RetrospectiveConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._config = config
        self._voice = voices.get("engine")
        self._prompts = prompts
        self._checks = checks
        self._road_seed = road_seed

    def work(self, seed: Seed) -> Work:
        if not seed.solution:
            return Outcome(rejects=[Reject("seed without a solution")])
        if BACK in seed.solution:
            return Outcome(rejects=[Reject(f"the solution holds {BACK}")])
        steps = [step for step in split_steps(seed.solution) if not states_answer(step)]
        if len(steps) < self._config.steps_needed:
            return Outcome(rejects=[Reject("too few steps", f"{len(steps)}")])
        if self._voice is None:
            draws = random.Random(draw_seed(self._road_seed, seed.id, "slips"))
            trace, slips = splice(seed.solution, self._config.slips, draws)
            if not slips:
                return Outcome(rejects=[Reject("no step can be put early")])
            candidate = self._candidate(seed, seed.solution, trace, {"slips": slips})
        else:
            # One step a line: a slip of several sentences is then taken back as a whole.
            solution = "\n".join(step.strip() for step in split_steps(seed.solution))
            numbered = split_steps(solution)
            prompt = self._prompts.render(
                PROMPT, problem=seed.problem, steps=number_steps(numbered)
            )
            ask = self._voice.ask(prompt, seed.id, "slip")
            [answer] = yield [ask]
            raw = answer.generations[0].text if answer.generations else ""
            try:
                tags = read_tags(whole(answer).text, TAGS)
                place, slip = _read_slip(tags, numbered)
            except Unusable as fault:
                return Outcome(rejects=[Reject(fault.reason, fault.detail, raw)])
            trace = "".join(
                [
                    *numbered[: place - 1],
                    with_mark(slip, "\n"),
                    *numbered[place - 1 :],
                ]
            )
            meta = {"slips": [(place, None)], "seed": ask.request.seed}
            candidate = self._candidate(seed, solution, trace, meta, raw)
        yield from self._checks.work(candidate, None, seed.id)
        return Outcome(candidates=[candidate])

    def _candidate(
        self, seed: Seed, solution: str, trace: str, meta: dict[str, Any], raw: str = ""
    ) -> Candidate:
        return Candidate(
            seed.problem,
            trace,
            seed.answer,
            raw,
            checked=delete_back(trace),
            verdicts={"deletes_back": delete_back(trace) == solution},
            meta=meta,
        )


def number_steps(steps: list[str]) -> str:
    """Steps as models see them: [1] and so on, one a line."""
    return "\n".join(f"[{number}] {step.strip()}" for number, step in enumerate(steps, start=1))


def _read_slip(tags: dict[str, str], steps: list[str]) -> tuple[int, str]:
    """The place and the text of a slip. Raises Unusable."""
    slip = tags["Slip"]
    place = tags["Place"].strip(" []*.")
    if not place.isascii() or not place.isdigit() or not 1 <= int(place) <= len(steps):
        raise Unusable("'Place:' is no step", tags["Place"][:80])
    if "\n" in slip or BACK in slip:
        raise Unusable(f"the slip is not one line without {BACK}", slip[:80])
    if states_answer(slip):
        raise Unusable("the slip states the final answer", slip[:80])
    if " ".join(slip.split()) == " ".join(steps[int(place) - 1].split()):
        raise Unusable("the slip is the right step", slip[:80])
    return int(place), slip
