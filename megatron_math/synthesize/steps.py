"""Put a later step of a solution early, mark it as taken back, and take it out again."""

import random
import re

from megatron_math.answers.solution_steps import CLOSES, HEADING, OPENS, split_steps, states_answer

BACK = "[back]"


def splice(solution: str, slips: int, rng: random.Random) -> tuple[str, list[tuple[int, int]]]:
    """`solution` with later steps put early, each taken back, and (place, step) of each from 1.

    Before `slips` of its steps, drawn without repetition, stands a later one and the mark
    `[back]`; there are fewer where the solution has fewer steps. Steps that state the answer stay.
    """
    solution, before = solution.lstrip(), solution[: len(solution) - len(solution.lstrip())]
    pieces = split_steps(solution)
    usable = [n for n, piece in enumerate(pieces) if _is_usable(piece)]
    chosen = sorted(rng.sample(usable[:-1], min(slips, max(0, len(usable) - 1))))
    made = []
    trace = list(pieces)
    for place in reversed(chosen):
        later = rng.choice([n for n in usable if n > place])
        trace.insert(place, with_mark(pieces[later], pieces[max(0, place - 1)]))
        made.append((place + 1, later + 1))
    return before + "".join(trace), made[::-1]


def with_mark(step: str, neighbour: str) -> str:
    """`step`, taken back, and behind it the white space that is behind its `neighbour`."""
    return f"{step.strip()} {BACK}{neighbour[len(neighbour.rstrip()) :]}"


def delete_back(trace: str) -> str:
    """`trace` without the steps that it takes back, mark and all."""
    steps = split_steps(trace.lstrip())
    before = trace[: len(trace) - len(trace.lstrip())]
    return before + "".join(step for step in steps if not step.rstrip().endswith(BACK))


def _is_usable(piece: str) -> bool:
    """Whether a piece says something, and is whole wherever it stands."""
    is_open = len(OPENS.findall(piece)) != len(CLOSES.findall(piece)) or piece.count("$$") % 2
    last_line = piece.strip().rpartition("\n")[2]
    says_something = len(re.findall(r"\w", piece)) >= 3 and not states_answer(piece)
    return says_something and not is_open and not HEADING.fullmatch(last_line)
