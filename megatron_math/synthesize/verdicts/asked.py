"""The checks that ask models: further solutions that must agree, a teacher who reads along."""

from collections.abc import Sequence

from megatron_math.answers.equal import equal
from megatron_math.answers.extract import extract_answer
from megatron_math.engine.interface import Answer
from megatron_math.synthesize.method_config import AgreementConfig
from megatron_math.synthesize.prompts import Prompts
from megatron_math.synthesize.tags import Unusable, first_word
from megatron_math.synthesize.verdicts.local import check_locally
from megatron_math.synthesize.verdicts.rule import AcceptRule
from megatron_math.synthesize.work import Ask, Asking, Candidate, Voice, whole


class Checks:
    """All verdicts on a candidate. Models are asked only while the rule can still accept it.

    solver: who gives the further solutions of `agreement`. teacher: who reads a candidate.
    """

    def __init__(
        self,
        rule: AcceptRule,
        prompts: Prompts,
        *,
        agreement: AgreementConfig | None = None,
        solver: Voice | None = None,
        teacher: Voice | None = None,
    ) -> None:
        self._rule = rule
        self._prompts = prompts
        self._agreement = agreement
        self._solver = solver
        self._teacher = teacher

    def work(self, candidate: Candidate, reference: str | None, item: str) -> Asking[Candidate]:
        """Complete `candidate.verdicts`. item: a name that no other candidate has."""
        verdicts = candidate.verdicts
        verdicts["parsed"] = True
        check_locally(candidate, reference)
        asks: dict[str, Ask] = {}
        if self._agreement is not None:
            asks["agreement"] = self._solutions(candidate, self._agreement, item)
        if self._teacher is not None:
            prompt = self._prompts.render(
                "judge.solution", problem=candidate.problem, solution=candidate.solution
            )
            asks["teacher"] = self._teacher.ask(prompt, item, "judge")
        if not asks or not self._rule.may_accept(verdicts, asks):
            return candidate
        answers = yield list(asks.values())
        for name, answer in zip(asks, answers, strict=True):
            read = self._read_agreement if name == "agreement" else read_judgement
            verdicts[name] = read(candidate, answer)
        return candidate

    def _solutions(self, candidate: Candidate, config: AgreementConfig, item: str) -> Ask:
        assert self._solver is not None
        prompt = self._prompts.render("solve.problem", problem=candidate.problem)
        return self._solver.ask(
            prompt, item, "agreement", n=config.solutions, temperature=config.temperature
        )

    def _read_agreement(self, candidate: Candidate, answer: Answer) -> bool | None:
        """Whether enough solutions have the candidate's answer; None without solutions."""
        assert self._agreement is not None
        if answer.failure is not None or candidate.answer is None:
            return None
        found = [extract_answer(generation.text).answer for generation in answer.generations]
        candidate.meta["agreeing"] = sum(equal(a, candidate.answer).correct for a in found)
        return bool(candidate.meta["agreeing"] >= self._agreement.least)


def read_judgement(candidate: Candidate, answer: Answer) -> bool | None:
    """What a teacher says of a candidate; None where the answer cannot be read."""
    try:
        return first_word(whole(answer).text, "Check", ("correct", "wrong")) == "correct"
    except Unusable:
        return None


def vote(answers: Sequence[str | None], least_share: float) -> list[bool | None]:
    """For every answer: whether at least that share of all has it; None for a missing one."""
    groups: list[tuple[str, list[int]]] = []
    for number, answer in enumerate(answers):
        if answer is None:
            continue
        for leader, members in groups:
            if equal(answer, leader).correct:
                members.append(number)
                break
        else:
            groups.append((answer, [number]))
    verdicts: list[bool | None] = [None] * len(answers)
    for _, members in groups:
        for number in members:
            verdicts[number] = len(members) >= least_share * len(answers)
    return verdicts
