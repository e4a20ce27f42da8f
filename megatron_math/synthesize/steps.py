"""A solution as steps: cut it, put a later step early and take it out again, count what derives.

A text of several lines is cut at its lines, a text of one line at its sentences. Nothing is lost:
the pieces of a text, one after another, are the text.
"""

import random
import re

BACK = "[back]"

# One sentence with what follows it: an enumerator such as "2." belongs to the sentence behind it,
# and a mark to the sentence before it.
_SENTENCE = re.compile(
    r"\s*(?:\d{1,2}[.)]\s+)?\S.*?"
    r"(?:[.!?]+[\"')\]$*]*(?=\s|$)|[。！？]+[”’）]*|(?=\s*\[back\])|(?=\s*\Z))"
    r"(?:\s*\[back\])?\s*"
)
_LINE = re.compile(r"[^\n]*\n+|[^\n]+$")
_HEADING = re.compile(
    r"\s*(?:#+\s.*|\*\*[^*]+\*\*\s*[:：]?|(?:step|步骤|第)\s*[\d一二三四五六七八九十]+\s*步?\s*[:：.]?)\s*",
    re.IGNORECASE,
)
_OPENS = re.compile(r"\\\[|\\begin\{")
_CLOSES = re.compile(r"\\\]|\\end\{")
_ANSWER = re.compile(
    r"####.*|(?:\bthe\s+)?(?:\bfinal\s+)?\banswer\s+is\b.*|(?:最终)?答案.*|^\s*A:.*"
    r"|\\boxed\s*\{.*",
    re.IGNORECASE,
)
_RELATION = re.compile(r"[=≈<>≤≥⇒≡]|\\(?:approx|leq?|geq?|neq?|implies|Rightarrow|equiv)\b")
_INFERENCE = re.compile(
    r"\b(?:so|thus|hence|therefore|then|since|because|implies|follows|gives|leaves|means)\b"
    r"|因此|所以|因为|从而|于是|可得|得到|故|则|即",
    re.IGNORECASE,
)
LEAST_WORDS = 4  # of an inference: "So the answer is 5" infers nothing


def split_steps(text: str) -> list[str]:
    """The pieces of `text`, each with the white space behind it; joined they are `text`.

    A heading belongs to the line below it; an environment or a displayed formula is not cut.
    """
    if "\n" not in text.strip():
        return _SENTENCE.findall(text) or ([text] if text else [])
    pieces: list[str] = []
    glued = False
    depth = 0
    for line in _LINE.findall(text):
        bare = line.strip()
        if pieces and (glued or not bare):
            pieces[-1] += line
        else:
            pieces.append(line)
        depth = max(0, depth + len(_OPENS.findall(bare)) - len(_CLOSES.findall(bare)))
        depth += (1 if depth == 0 else -1) if bare.count("$$") % 2 else 0
        glued = depth > 0 or (glued and not bare) or bool(bare and _HEADING.fullmatch(bare))
    return pieces


def states_answer(step: str) -> bool:
    """Whether a step says what the final answer is."""
    return _ANSWER.search(step) is not None


def count_steps(solution: str) -> int:
    """Steps that derive something: those with a relation sign or an inference.

    What restates the problem, heads a section or states the final answer is not counted.
    """
    return sum(_derives(step) for step in split_steps(solution))


def _derives(step: str) -> bool:
    step = _ANSWER.sub("", step.strip())
    if _RELATION.search(step):
        return True
    words = len(re.findall(r"\w+", step)) + len(re.findall(r"[\u4e00-\u9fff]", step)) // 2
    return bool(_INFERENCE.search(step)) and words > LEAST_WORDS


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
    is_open = len(_OPENS.findall(piece)) != len(_CLOSES.findall(piece)) or piece.count("$$") % 2
    last_line = piece.strip().rpartition("\n")[2]
    says_something = len(re.findall(r"\w", piece)) >= 3 and not states_answer(piece)
    return says_something and not is_open and not _HEADING.fullmatch(last_line)
