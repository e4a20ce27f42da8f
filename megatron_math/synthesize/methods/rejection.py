"""Rejection sampling: draw several solutions, check, deduplicate, keep the best."""

from collections.abc import Mapping
from typing import Literal

from megatron_math.answers.extract import extract_answer
from megatron_math.answers.solution_steps import count_steps
from megatron_math.engine.interface import Generation
from megatron_math.synthesize.method_config import RejectionConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.tags import Unusable, final_answer
from megatron_math.synthesize.verdicts.asked import Checks, vote
from megatron_math.synthesize.work import (
    Candidate,
    Outcome,
    Reject,
    Seed,
    Voice,
    Work,
    side_by_side,
)

PROMPT = "solve.problem"


class Rejection:
    """One request a seed for all its samples, a candidate each."""

    prompt = PROMPT
    unique: Literal["problem", "both"] = "both"

    def __init__(
        self,
        config: RejectionConfig,
        voices: Mapping[str, Voice],
        prompts: Prompts,
        checks: Checks,
        road_seed: int,
    ) -> None:
        self._config = config
        self._voice = voices["engine"]
        self._prompts = prompts
        self._checks = checks

    def work(self, seed: Seed) -> Work:
        config = self._config
        prompt = self._prompts.render(PROMPT, problem=seed.problem)
        ask = self._voice.ask(prompt, seed.id, "samples", n=config.samples)
        [answer] = yield [ask]
        outcome = Outcome(keep=config.keep)
        if answer.failure is not None:
            outcome.rejects.append(Reject("no answer", answer.failure))
        votes = vote([extract_answer(item.text).answer for item in answer.generations], config.vote)
        for number, (generation, agreed) in enumerate(
            zip(answer.generations, votes, strict=True), start=1
        ):
            try:
                candidate = _candidate(seed, generation)
            except Unusable as fault:
                about = {"number": number}
                reject = Reject(fault.reason, fault.detail, generation.text, about)
                outcome.rejects.append(reject)
                continue
            candidate.verdicts["agreement"] = agreed if config.samples > 1 else None
            candidate.meta = {"number": number, "seed": ask.request.seed}
            outcome.candidates.append(candidate)
        yield from side_by_side(
            [
                self._checks.work(candidate, seed.answer, f"{seed.id}/{candidate.meta['number']}")
                for candidate in outcome.candidates
            ]
        )
        right = sum(c.verdicts["reference"] is True for c in outcome.candidates)
        for candidate in outcome.candidates:
            if seed.answer is not None:
                candidate.meta["right_of"] = [right, config.samples]
        outcome.candidates.sort(key=self._worth)
        return outcome

    def _worth(self, candidate: Candidate) -> int:
        """Lower is better; equal ones stay in the order in which they were drawn."""
        match self._config.best:
            case "fewest_steps":
                return count_steps(candidate.solution)
            case "most_steps":
                return -count_steps(candidate.solution)
            case "shortest":
                return len(candidate.solution)
        return 0


def _candidate(seed: Seed, generation: Generation) -> Candidate:
    """One sample. Raises Unusable."""
    if generation.finish == "length":
        raise Unusable("cut off", generation.text[-80:])
    solution = generation.text.strip()
    return Candidate(seed.problem, solution, final_answer(solution), generation.text)
