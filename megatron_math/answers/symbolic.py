"""SymPy's opinion, where values cannot tell whether two expressions are one function.

Its simplifications have no bound in time or memory; only killable processes come here.
"""

from typing import Any

import sympy

from megatron_math.answers.nodes import Node, UnreadableError

_NAMES = {
    "ln": sympy.log, "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
    "abs": sympy.Abs, "floor": sympy.floor, "ceiling": sympy.ceiling, "binomial": sympy.binomial,
    "factorial": sympy.factorial, "power": sympy.Pow, "add": sympy.Add, "multiply": sympy.Mul,
}  # fmt: skip
_CONSTANTS = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infinity": sympy.oo}


def is_zero(node: Node) -> bool | None:
    """Whether an expression is zero wherever it is defined; None when SymPy cannot tell."""
    difference = sympy.simplify(to_sympy(node))
    if difference == 0:
        return True
    return False if difference.is_number or difference.is_zero is False else None


def to_sympy(node: Node) -> Any:
    """A tree as SymPy's. Raises UnreadableError for brackets, relations and lists."""
    if node.kind == "number":
        return sympy.Rational(node.value.numerator, node.value.denominator)
    if node.kind == "symbol":
        return sympy.Symbol(node.name)
    if node.kind == "constant":
        return _CONSTANTS[node.name]
    if node.kind != "call" or node.name in ("pm", "mp", "base"):
        raise UnreadableError(f"SymPy is not asked about a {node.kind} {node.name}")
    parts = [to_sympy(part) for part in node.parts]
    if node.name == "negative":
        return -parts[0]
    if node.name == "divide":
        return parts[0] / parts[1]
    if node.name == "root":
        return sympy.real_root(*parts)
    if node.name == "degrees":
        return parts[0] * sympy.pi / 180
    function = _NAMES.get(node.name) or getattr(sympy, node.name)
    return function(*parts)
