"""Are two trees one answer? Brackets by their elements, relations by what they say, values last.

`same_answers` says True, False, or None where it cannot tell. It evaluates untrusted expressions:
only killable processes come here.
"""

import re
from collections.abc import Sequence

from megatron_math.answers.expression import read_expression
from megatron_math.answers.nodes import Node, UnreadableError, call, scalar
from megatron_math.answers.regions import is_inequality, is_region, region_of
from megatron_math.answers.rules import Rules
from megatron_math.answers.scalars import Scalars
from megatron_math.answers.steps import tidy
from megatron_math.answers.units import Unit, read_unit
from megatron_math.answers.value import both_signs

MAX_ELEMENTS = 64
_PHRASES = {
    "all real numbers": r"\reals", "all reals": r"\reals", "any real number": r"\reals",
    "no solution": r"\emptyset", "no solutions": r"\emptyset", "empty set": r"\emptyset",
    "no real solution": r"\emptyset", "no real solutions": r"\emptyset", "无解": r"\emptyset",
    "the empty set": r"\emptyset", "全体实数": r"\reals",
}  # fmt: skip
# Digits and signs that make no expression ("5/", "5 5") make no answer either.
_ARITHMETIC = re.compile(r"[\d\s.,/+*^()\[\]{}:;=!?$-]+")
_TRIGONOMETRY = re.compile(r"sin|cos|tan|cot|sec|csc")
_ENDLESS = re.compile(r"(\d*\.\d*?)(\d)\2{2,}\s*(?:\.{2,3}|…|\\[lc]?dots)")  # 0.1666...
_DERIVATIVE = re.compile(
    r"\\frac\s*\{\s*(?:d|\\partial)\s*\w?\s*\}\s*\{\s*(?:d|\\partial)\s*\w\s*\}"
)
_SYSTEM = re.compile(r"^\\\{\s*\\begin\{array\}\s*\{[lcr]*\}(.*)\\end\{array\}$")
_LOGARITHM = re.compile(r"\\?log(?![_A-Za-z])(?!\s*_)")
_BUILDER = re.compile(r"\\?\{\s*[A-Za-z]\s*(?:\\mid|\\vert|\||:)\s*([^{}|]+?)\s*\\?\}")
_UNIT_BEHIND = re.compile(r"(.*[\w})\]]) ([A-Za-z]+(?:(?: |/)[A-Za-z]+){0,3}(?:\^\{?[23]\}?)?)")


def same_answers(answer: str, reference: str, rules: Rules) -> bool | None:
    """Whether both texts are one answer; None when a text cannot be read, or nobody can tell."""
    steps = rules.steps - {"prefix"}
    texts = tidy(answer, steps), tidy(reference, steps)
    verdict = _same_texts(texts, rules)
    if verdict is False and any(_LOGARITHM.search(text) for text in texts):
        # without a base: the natural one, or the one of ten
        decimal = _same_texts(tuple(_LOGARITHM.sub(r"\\lg ", text) for text in texts), rules)
        return True if decimal else verdict
    return verdict


def _same_texts(texts: tuple[str, ...], rules: Rules) -> bool | None:
    try:
        second, expected = _read(texts[1], texts[0])
    except UnreadableError:
        return None
    try:
        first, unit = _read(texts[0], texts[1])
    except UnreadableError:
        return False if _ARITHMETIC.fullmatch(texts[0]) else None
    if "units" in rules.checks and unit.kind and expected.kind:
        if unit.kind != expected.kind:
            return False
        if unit.size != expected.size:
            first = call("multiply", first, Node("number", value=unit.size))
            second = call("multiply", second, Node("number", value=expected.size))
    comparison = Comparison(rules, seed="\n".join(texts))
    verdict = comparison.same(first, second)
    degrees = [one.kind == "angle" for one in (unit, expected)]
    if verdict is False and any(degrees) and not all(degrees):
        other = texts[0] if degrees[1] else texts[1]
        if "pi" in other or "arc" in other:  # 90° is pi/2, not 90
            sides = [
                call("degrees", scalar(node)) if is_degrees else node
                for node, is_degrees in zip((first, second), degrees, strict=True)
            ]
            return comparison.same(*sides)
    return verdict


def _read(text: str, other: str) -> tuple[Node, Unit]:
    """The tree, and the unit behind it."""
    text = _PHRASES.get(text.lower(), text)
    if _DERIVATIVE.search(text):
        raise UnreadableError("a derivative")
    text = _SYSTEM.sub(r"\\begin{cases}\1\\end{cases}", text)
    text = _ENDLESS.sub(r"\1\\overline{\2}", text)
    if match := _BUILDER.fullmatch(text):
        text = match[1]
    if text.endswith(("°", "%")) and not _TRIGONOMETRY.search(text):
        kind = "angle" if text[-1] == "°" else "percent"
        return read_expression(text[:-1]), Unit(kind)
    if text.startswith("$"):
        return read_expression(text[1:]), Unit("money")
    if match := _UNIT_BEHIND.fullmatch(text):
        unit = read_unit(match[2])
        letters = re.match("[A-Za-z]+", match[2])
        is_word = letters is not None and len(letters[0]) > 3
        is_letter = len(match[2]) == 1 and match[2] in other
        if unit is not None and (unit.kind or is_word) and not is_letter:
            return read_expression(match[1]), unit
    return read_expression(text), Unit()


class Comparison:
    """Compares trees under rules. seed: decides at which places functions are compared."""

    def __init__(self, rules: Rules, seed: str) -> None:
        self._checks = rules.checks
        self._scalars = Scalars(rules, seed)

    def same(self, answer: Node, reference: Node) -> bool | None:
        """True, False, or None where it cannot be told."""
        if answer == reference:
            return True
        answer, reference = _prepared(answer), _prepared(reference)
        kinds = {answer.kind, reference.kind}
        if "relation" in kinds:
            return self._relations(answer, reference)
        if "list" in kinds or "set" in kinds:
            return self._collections(answer, reference)
        if "matrix" in kinds:
            return self._matrices(answer, reference) if "matrix" in self._checks else None
        if "union" in kinds or "group" in kinds:
            return self._groups(answer, reference) if "elements" in self._checks else None
        return self._scalars.same(answer, reference) if "algebra" in self._checks else None

    # Relations.

    def _relations(self, answer: Node, reference: Node) -> bool | None:
        if is_inequality(answer) or is_inequality(reference):
            return self._inequalities(answer, reference)
        first, second = _named(answer), _named(reference)
        if first and second:
            if first[0] == second[0] or "(" in (first[0] + second[0]):
                return self.same(first[1], second[1])
            return self._equations(answer, reference)
        if first and reference.kind != "relation":
            return self.same(first[1], reference)
        if second and answer.kind != "relation":
            return self.same(answer, second[1])
        if answer.kind == reference.kind == "relation":
            return self._equations(answer, reference)
        return False

    def _equations(self, answer: Node, reference: Node) -> bool | None:
        if "equation" not in self._checks:
            return None
        return self._scalars.proportional(_difference(answer), _difference(reference))

    def _inequalities(self, answer: Node, reference: Node) -> bool | None:
        if "elements" not in self._checks:
            return None
        regions = [region_of(node) or (node, "") for node in (answer, reference)]
        names = [name for _, name in regions]
        if all(is_region(node) for node, _ in regions):
            if all(names) and names[0] != names[1]:
                return False
            return self.same(regions[0][0], regions[1][0])
        if not (is_inequality(answer) and is_inequality(reference)):
            return False
        if len(answer.parts) != 2 or len(reference.parts) != 2:
            return None
        first, second = (_turned(node) for node in (answer, reference))
        if first.name != second.name:
            return False
        return self._scalars.proportional(
            _difference(first), _difference(second), positive=first.name != "!="
        )

    # Brackets.

    def _collections(self, answer: Node, reference: Node) -> bool | None:
        assigned = self._assignments(answer, reference)
        if assigned is not None:
            return assigned[0]
        if "elements" not in self._checks and "set" in (answer.kind, reference.kind):
            return None
        first, second = _elements(answer), _elements(reference)
        if "group" in (answer.kind, reference.kind):
            group = answer if answer.kind == "group" else reference
            other = reference if group is answer else answer
            loose = "loose brackets" in self._checks
            if group.name == "[]" and len(group.parts) != 2 and other.kind == "list":
                return self._in_any_order(group.parts, other.parts)  # as a program prints it
            if other.kind == "list" and (group.name == "()" or loose):
                return self._in_order(group.parts, other.parts)
            return self._in_any_order(first, second) if loose else False
        if "union" in (answer.kind, reference.kind):
            return False
        if reference.kind == "list" and reference.name == ";":
            return self._in_order(first, second)
        if "set" in (answer.kind, reference.kind):
            first, second = self._without_copies(first), self._without_copies(second)
        return self._in_any_order(first, second)

    def _assignments(self, answer: Node, reference: Node) -> tuple[bool | None] | None:
        """The verdict on lists such as "x = 3, y = 5", where one of both is one."""
        first, second = _assigned(answer), _assigned(reference)
        if first is None and second is None:
            return None
        if first is not None and second is not None:
            if set(first) != set(second):
                return (False,)
            return (self._in_order([first[n] for n in second], list(second.values())),)
        assigned = first if first is not None else second
        assert assigned is not None
        other = reference if first is not None else answer
        if other.kind not in ("list", "group"):
            return (False,)
        values = [assigned[name] for name in sorted(assigned)]
        return (self._in_order(values, other.parts),)

    def _groups(self, answer: Node, reference: Node) -> bool | None:
        if answer.kind != reference.kind:
            return False
        if answer.kind == "union":
            return self._in_any_order(answer.parts, reference.parts)
        if answer.name != reference.name and "loose brackets" not in self._checks:
            return False
        return self._in_order(answer.parts, reference.parts)

    def _matrices(self, answer: Node, reference: Node) -> bool | None:
        first, second = answer, reference
        if first.kind == second.kind:
            if len(first.parts) != len(second.parts):
                return False
            return _all(
                self._in_order(a.parts, b.parts)
                for a, b in zip(first.parts, second.parts, strict=True)
            )
        matrix, other = (first, second) if first.kind == "matrix" else (second, first)
        if other.kind != "group" or other.name not in ("()", "[]"):
            return False
        if len(matrix.parts) == 1:
            return self._in_order(matrix.parts[0].parts, other.parts)
        if len(matrix.parts[0].parts) == 1:
            return self._in_order([row.parts[0] for row in matrix.parts], other.parts)
        return False

    def _in_order(self, first: Sequence[Node], second: Sequence[Node]) -> bool | None:
        if len(first) != len(second):
            return False
        return _all(self.same(a, b) for a, b in zip(first, second, strict=True))

    def _in_any_order(self, first: Sequence[Node], second: Sequence[Node]) -> bool | None:
        if len(first) != len(second):
            return False
        if len(first) > MAX_ELEMENTS:
            return self._in_order(first, second)
        left, unknown = list(second), False
        for node in first:
            for place, other in enumerate(left):
                verdict = self.same(node, other)
                unknown |= verdict is None
                if verdict:
                    del left[place]
                    break
            else:
                return None if unknown else False
        return True

    def _without_copies(self, nodes: Sequence[Node]) -> list[Node]:
        kept: list[Node] = []
        for node in nodes[:MAX_ELEMENTS]:
            if not any(self.same(node, other) for other in kept):
                kept.append(node)
        return kept + list(nodes[MAX_ELEMENTS:])


def _all(verdicts: object) -> bool | None:
    found: list[bool | None] = list(verdicts)  # type: ignore[call-overload]
    return False if False in found else None if None in found else True


def _prepared(node: Node) -> Node:
    """± spelled out; inequalities in a list joined; [[1, 2], [3, 4]] as a matrix."""
    if node.kind == "list" and all(is_inequality(part) for part in node.parts):
        region = region_of(node)
        return region[0] if region else node
    if node.kind in ("list", "set"):
        return Node(node.kind, tuple(_elements(node)), node.name)
    if node.kind == "group" and len(node.parts) == 1 and node.name == "[]":
        return _prepared(node.parts[0])
    if node.kind == "group" and len(node.parts) > 1 and node.name == "[]":
        rows = node.parts
        is_matrix = all(row.kind == "group" and row.name == "[]" for row in rows)
        if is_matrix and len({len(row.parts) for row in rows}) == 1:
            return Node("matrix", rows)
    signs = both_signs(node)
    return node if len(signs) == 1 else Node("list", tuple(signs), ",")


def _elements(node: Node) -> list[Node]:
    """The parts of a list or set, ± spelled out, and x = 2, x = 5 without the letter."""
    if node.kind not in ("list", "set"):
        return [node]
    parts = [sign for part in node.parts for sign in both_signs(part)]
    named = [_named(part) for part in parts]
    names = {name[0] for name in named if name}
    if len(names) == 1 and node.kind == "list" and not (names & {"y"} and all(named)):
        return [name[1] if name else part for name, part in zip(named, parts, strict=True)]
    return parts


def _named(node: Node) -> tuple[str, Node] | None:
    """("x", 5) of x = 5, ("f(", ...) of f(x) = ..., ("x,y", ...) of (x, y) = ..., else None."""
    if node.kind != "relation" or set(node.name.split()) - {"=", "in"}:
        return None
    left, right = node.parts[0], node.parts[-1]
    if left.kind == "symbol":
        return left.name, right
    if left.name == "multiply" and left.parts[0].kind == "symbol":
        function, argument = left.parts
        if function.name[0] in "fghFGHPp" and argument.kind in ("symbol", "number"):
            return f"{function.name}(", right
    if left.kind == "group" and all(part.kind == "symbol" for part in left.parts):
        return ",".join(part.name for part in left.parts), right
    if len(node.parts) != 2 or not _has_letter(node):
        return "", right  # 2 + 3 = 5
    return None


def _has_letter(node: Node) -> bool:
    return node.kind == "symbol" or any(_has_letter(part) for part in node.parts)


def _assigned(node: Node) -> dict[str, Node] | None:
    """{"x": 3, "y": 5} of x = 3, y = 5; None where letters repeat or are missing."""
    if node.kind not in ("list", "set") or len(node.parts) < 2:
        return None
    named = [_named(part) for part in node.parts]
    values = {name[0]: name[1] for name in named if name and name[0]}
    return values if len(values) == len(node.parts) else None


def _difference(relation: Node) -> Node:
    return call("add", relation.parts[0], call("negative", relation.parts[1]))


def _turned(relation: Node) -> Node:
    """An inequality of two sides as > or >=."""
    if relation.name in ("<", "<="):
        return Node("relation", relation.parts[::-1], relation.name.replace("<", ">"))
    return relation
