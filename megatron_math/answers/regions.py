"""Inequalities in one letter as intervals: x < 2 or x >= 3 is (-oo, 2) u [3, oo)."""

from megatron_math.answers.nodes import Node, call, constant

_INFINITY = constant("infinity")
_MINUS_INFINITY = call("negative", _INFINITY)
_SIGNS = ("<", "<=", ">", ">=", "!=")


def is_inequality(node: Node) -> bool:
    return node.kind == "relation" and not set(node.name.split()) - set(_SIGNS)


def is_region(node: Node) -> bool:
    return node.kind in ("group", "union", "set")


def region_of(node: Node) -> tuple[Node, str] | None:
    """(the interval or union, its letter), or None: several letters, or no inequality."""
    if node.kind == "list":
        return _joined(node)
    if node.kind != "relation":
        return None
    signs = node.name.split()
    if node.name == "in" and node.parts[0].kind == "symbol":
        return node.parts[1], node.parts[0].name
    if not is_inequality(node):
        return None
    if len(signs) == 2 and node.parts[1].kind == "symbol":
        low, letter, high = node.parts
        if all(sign in (">", ">=") for sign in signs):
            low, high, signs = high, low, [sign.replace(">", "<") for sign in signs[::-1]]
        if not all(sign in ("<", "<=") for sign in signs):
            return None
        brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
        return Node("group", (low, high), brackets), letter.name
    if len(signs) != 1:
        return None
    left, right = node.parts
    sign = signs[0]
    if right.kind == "symbol" and left.kind != "symbol":
        left, right = right, left
        sign = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(sign, sign)
    if left.kind != "symbol":
        return None
    if sign == "!=":
        below = Node("group", (_MINUS_INFINITY, right), "()")
        return Node("union", (below, Node("group", (right, _INFINITY), "()"))), left.name
    if sign[0] == "<":
        closing = "]" if sign == "<=" else ")"
        return Node("group", (_MINUS_INFINITY, right), "(" + closing), left.name
    opening = "[" if sign == ">=" else "("
    return Node("group", (right, _INFINITY), opening + ")"), left.name


def _joined(node: Node) -> tuple[Node, str] | None:
    """Inequalities joined by "or" or a comma are a union; two joined by "and" an interval."""
    found = [region_of(part) for part in node.parts]
    regions = [region for region in found if region is not None]
    if len(regions) != len(node.parts) or len({letter for _, letter in regions}) != 1:
        return None
    letter = regions[0][1]
    if node.name != "and":
        parts = [
            piece for region, _ in regions
            for piece in (region.parts if region.kind == "union" else (region,))
        ]  # fmt: skip
        return Node("union", tuple(parts)), letter
    if len(regions) != 2 or any(region.kind != "group" for region, _ in regions):
        return None
    (first, _), (second, _) = regions
    if first.parts[0] == _MINUS_INFINITY:
        first, second = second, first
    if first.parts[1] != _INFINITY or second.parts[0] != _MINUS_INFINITY:
        return None
    return Node("group", (first.parts[0], second.parts[1]), first.name[0] + second.name[1]), letter
