"""The tree of an answer: numbers, letters, operations, brackets, relations."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal[
    "number", "symbol", "constant", "call", "group", "set", "matrix", "relation", "union", "list",
]  # fmt: skip


class UnreadableError(ValueError):
    """The text is not, or not for certain, an expression of this grammar."""


@dataclass(frozen=True, slots=True)
class Node:
    """A tree. name: of a letter, an operation, a pair of brackets, the relations between parts,
    what joins a list (",", ";" or "and")."""

    kind: Kind
    parts: tuple["Node", ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)
    places: int = -1
    """Of a decimal: digits behind its point; -1 for anything else."""


def call(name: str, *parts: Node) -> Node:
    return Node("call", parts, name)


def constant(name: str) -> Node:
    return Node("constant", name=name)


def integer(value: int) -> Node:
    return Node("number", value=Fraction(value))


REALS = Node("group", (call("negative", constant("infinity")), constant("infinity")), name="()")


def scalar(node: Node) -> Node:
    """`node` where arithmetic wants one value; square brackets around one value are brackets."""
    if node.kind == "group" and len(node.parts) == 1 and node.name == "[]":
        return scalar(node.parts[0])
    if node.kind in ("number", "symbol", "constant", "call"):
        return node
    raise UnreadableError(f"arithmetic with a {node.kind}")


def parts_of(node: Node) -> tuple[Node, ...]:
    return node.parts if node.kind == "list" else (node,)
