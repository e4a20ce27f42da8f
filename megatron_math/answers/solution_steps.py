"""A solution as steps: cut it, and count what derives something.

A text of several lines is cut at its lines, a text of one line at its sentences. Nothing is lost:
the pieces of a text, one after another, are the text.
"""

import re

# One sentence with what follows it: an enumerator such as "2." belongs to the sentence behind it,
# and a mark to the sentence before it.
_SENTENCE = re.compile(
    r"\s*(?:\d{1,2}[.)]\s+)?\S.*?"
    r"(?:[.!?]+[\"')\]$*]*(?=\s|$)|[。！？]+[”’）]*|(?=\s*\[back\])|(?=\s*\Z))"
    r"(?:\s*\[back\])?\s*"
)
_LINE = re.compile(r"[^\n]*\n+|[^\n]+$")
HEADING = re.compile(
    r"\s*(?:#+\s.*|\*\*[^*]+\*\*\s*[:：]?|(?:step|步骤|第)\s*[\d一二三四五六七八九十]+\s*步?\s*[:：.]?)\s*",
    re.IGNORECASE,
)
OPENS = re.compile(r"\\\[|\\begin\{")
CLOSES = re.compile(r"\\\]|\\end\{")
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
        depth = max(0, depth + len(OPENS.findall(bare)) - len(CLOSES.findall(bare)))
        depth += (1 if depth == 0 else -1) if bare.count("$$") % 2 else 0
        glued = depth > 0 or (glued and not bare) or bool(bare and HEADING.fullmatch(bare))
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
