"""Plain arithmetic: the operations of the stories without the stories."""

from megatron_math.synthesize.families.words import word_family

_ASK = ("What is {}?", "Compute {}.", "Calculate {}.", "Find {}.", "{} = ?", "Work out {}.")


def _asked(expression: str, *more: str) -> tuple[str, ...]:
    return (*(question.replace("{}", expression) for question in _ASK), *more)


_ADD = _asked("{a} + {b}", "What is the sum of {a} and {b}?", "Add {b} to {a}.")
_SUBTRACT = _asked("{a} - {b}", "What is {a} minus {b}?", "Take {b} away from {a}.")
_MULTIPLY = _asked("{a} * {b}", "What is {a} times {b}?", "Multiply {a} by {b}.")
_DIVIDE = _asked("{a} / {b}", "What is {a} divided by {b}?", "Divide {a} by {b}.")
_LITTLE, _TENS, _TABLE = (1, 20), (10, 99), (2, 12)

FAMILIES = (
    word_family(
        "add", 1, 1, steps="a + b", expression="a + b",
        ranges=[_LITTLE] * 2, largest=20, texts=_ADD,
    ),
    word_family(
        "subtract", 1, 1, steps="a - b", expression="a - b",
        ranges=[_LITTLE] * 2, largest=20, texts=_SUBTRACT,
    ),
    word_family(
        "multiply", 1, 0.25, steps="a * b", expression="a * b",
        ranges=[(2, 10)] * 2, largest=20, texts=_MULTIPLY,
    ),
    word_family(
        "divide", 1, 0.25, steps="a / b", expression="a / b",
        ranges=[(4, 20), (2, 10)], largest=20, texts=_DIVIDE,
    ),
    word_family(
        "add_large", 2, 1, steps="a + b", expression="a + b",
        ranges=[_TENS] * 2, largest=198, texts=_ADD,
    ),
    word_family(
        "subtract_large", 2, 1, steps="a - b", expression="a - b",
        ranges=[_TENS] * 2, largest=99, texts=_SUBTRACT,
    ),
    word_family(
        "add_product", 2, 1, steps="p = b * c; a + p", expression="c * b + a",
        ranges=[(2, 50), _TABLE, _TABLE], largest=200, texts=_asked("{a} + {b} * {c}"),
    ),
    word_family(
        "sum_times", 2, 1, steps="p = a + b; p * c", expression="a * c + b * c",
        ranges=[(2, 20), (2, 20), _TABLE], largest=300, texts=_asked("({a} + {b}) * {c}"),
    ),
    word_family(
        "product_subtract", 2, 1, steps="p = a * b; p - c", expression="b * a - c",
        ranges=[_TABLE, _TABLE, (2, 50)], largest=144, texts=_asked("{a} * {b} - {c}"),
    ),
    word_family(
        "difference_of_products", 3, 1,
        steps="p = a * b; q = c * d; p - q", expression="b * a - d * c",
        ranges=[_TABLE] * 4, largest=144, texts=_asked("{a} * {b} - {c} * {d}"),
    ),
)  # fmt: skip
