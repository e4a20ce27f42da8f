"""The checks that need no model. A further one is a function here and a name in `rule`."""

from collections.abc import Callable

from megatron_math.answers.equal import equal
from megatron_math.synthesize.verdicts.substitution import answer_solves
from megatron_math.synthesize.verdicts.symbolic import statements_hold
from megatron_math.synthesize.work import Candidate

# name -> (candidate, reference answer or None) -> verdict
LOCAL_CHECKS: dict[str, Callable[[Candidate, str | None], bool | None]] = {
    "reference": lambda candidate, reference: (
        None if reference is None else equal(candidate.answer, reference).correct
    ),
    "symbolic": lambda candidate, reference: statements_hold(
        candidate.solution if candidate.checked is None else candidate.checked
    ),
    "substitution": lambda candidate, reference: answer_solves(candidate.problem, candidate.answer),
}


def check_locally(candidate: Candidate, reference: str | None) -> None:
    """Set the verdicts of all local checks that the candidate does not have yet."""
    for name, check in LOCAL_CHECKS.items():
        if name not in candidate.verdicts:
            candidate.verdicts[name] = check(candidate, reference)
