"""Word problems: one step with numbers to 20, two steps, three steps."""

# ruff: noqa: E501 - one story, one line

from megatron_math.synthesize.families.words import word_family

# One step: short on purpose. A small model sees the same number of tokens in a run, so a text of
# half the length is twice as many problems.
_ADD = (
    "{A} has {a} {things} and gets {b} more. How many in all?",
    "{A} has {a} {things} and {B} has {b}. How many together?",
    "A box has {a} {things}. {A} adds {b}. How many are there now?",
    "{A} buys {a} {things} and then {b} more. How many in all?",
    "{A} finds {a} {things} and {B} finds {b}. How many together?",
    "{A} sees {a} red and {b} blue {things}. How many in all?",
)
_SUBTRACT = (
    "{A} has {a} {things} and gives {b} to {B}. How many are left?",
    "{A} has {a} {things} and loses {b}. How many are left?",
    "A box has {a} {things}. {A} takes {b}. How many are left?",
    "{A} has {a} {things}. {B} has {b} fewer. How many has {B}?",
    "{A} needs {a} {things} and has {b}. How many are missing?",
    "{A} had {a} {things} and sold {b}. How many are left?",
)
_MULTIPLY = (
    "{A} has {a} boxes with {b} {things} each. How many in all?",
    "{A} buys {a} packs of {b} {things}. How many in all?",
    "{A} fills {a} rows with {b} {things} each. How many in all?",
    "There are {a} bags of {b} {things}. How many in all?",
    "{A} gets {a} {things} a day for {b} days. How many in all?",
    "{A} and friends, {a} in all, bring {b} {things} each. How many?",
)
_DIVIDE = (
    "{A} shares {a} {things} among {b} friends. How many for each?",
    "{A} puts {a} {things} into {b} boxes. How many in each?",
    "{A} packs {a} {things} into bags of {b}. How many bags?",
    "{A} lays {a} {things} in {b} rows. How many in each?",
    "{A} uses {b} of {a} {things} a day. How many days?",
    "{A} splits {a} {things} into {b} piles. How many in each?",
)
_LITTLE, _TENS, _TABLE = (2, 20), (10, 99), (2, 12)

_ONE_STEP = (
    word_family(
        "word_add", 1, 4, steps="a + b", expression="a + b",
        ranges=[_LITTLE] * 2, largest=20, texts=_ADD,
    ),
    word_family(
        "word_subtract", 1, 4, steps="a - b", expression="a - b",
        ranges=[_LITTLE] * 2, largest=20, texts=_SUBTRACT,
    ),
    word_family(
        "word_multiply", 1, 1, steps="a * b", expression="a * b",
        ranges=[(2, 10)] * 2, largest=20, texts=_MULTIPLY,
    ),
    word_family(
        "word_divide", 1, 1, steps="a / b", expression="a / b",
        ranges=[(4, 20), (2, 10)], largest=20, texts=_DIVIDE,
    ),
    word_family(
        "word_add_large", 2, 1, steps="a + b", expression="a + b",
        ranges=[_TENS] * 2, largest=198, texts=_ADD,
    ),
    word_family(
        "word_subtract_large", 2, 1, steps="a - b", expression="a - b",
        ranges=[_TENS] * 2, largest=99, texts=_SUBTRACT,
    ),
    word_family(
        "word_multiply_large", 2, 1, steps="a * b", expression="a * b",
        ranges=[_TABLE] * 2, largest=144, texts=_MULTIPLY,
    ),
    word_family(
        "word_divide_large", 2, 1, steps="a / b", expression="a / b",
        ranges=[(12, 144), _TABLE], largest=12, texts=_DIVIDE,
    ),
)  # fmt: skip

_TWO_STEPS = (
    word_family(
        "word_add_subtract", 2, 2, steps="p = a + b; p - c", expression="a - c + b",
        ranges=[(2, 50)] * 3, largest=100,
        texts=(
            "{A} has {a} {things}, gets {b} more and gives {c} to {B}. How many {things} does {A} have now?",
            "There are {a} {things} in a box. {A} puts {b} in and takes {c} out. How many {things} are in the box?",
            "{A} buys {a} {things} and {B} buys {b}. They lose {c} of them. How many {things} are left?",
            "{A} finds {a} {things} on one day and {b} on the next, then sells {c}. How many {things} are left?",
        ),
    ),
    word_family(
        "word_subtract_subtract", 2, 1, steps="p = a - b; p - c", expression="a - (b + c)",
        ranges=[(10, 99), (2, 50), (2, 50)], largest=100,
        texts=(
            "{A} has {a} {things} and gives {b} to {B} and {c} to a friend. How many {things} does {A} have left?",
            "There are {a} {things} in a box. {A} takes {b} and {B} takes {c}. How many {things} are in the box?",
            "{A} had {a} {things}, lost {b} and sold {c}. How many {things} are left?",
            "A shop has {a} {things}. It sells {b} to {A} and {c} to {B}. How many {things} are left?",
        ),
    ),
    word_family(
        "word_multiply_add", 2, 1, steps="p = a * b; p + c", expression="c + b * a",
        ranges=[_TABLE, _TABLE, (2, 50)], largest=150,
        texts=(
            "{A} has {a} boxes with {b} {things} each and {c} more {things}. How many {things} does {A} have in all?",
            "{A} buys {a} packs of {b} {things} and finds {c} more. How many {things} does {A} have?",
            "There are {a} rows of {b} {things}. {B} adds {c} {things}. How many {things} are there now?",
            "{A} gets {a} {things} a day for {b} days, and then {c} more. How many {things} does {A} have?",
        ),
    ),
    word_family(
        "word_multiply_subtract", 2, 1, steps="p = a * b; p - c", expression="b * a - c",
        ranges=[_TABLE, _TABLE, (2, 50)], largest=144,
        texts=(
            "{A} has {a} boxes with {b} {things} each and gives {c} to {B}. How many {things} does {A} have left?",
            "{A} buys {a} packs of {b} {things} and loses {c}. How many {things} are left?",
            "There are {a} bags with {b} {things} each. {c} of the {things} are sold. How many {things} are left?",
            "{A} makes {a} {things} a day for {b} days and sells {c}. How many {things} are left?",
        ),
    ),
    word_family(
        "word_add_divide", 2, 1, steps="p = a + b; p / c", expression="a / c + b / c",
        ranges=[(2, 50), (2, 50), (2, 10)], largest=100,
        texts=(
            "{A} has {a} {things} and {B} has {b}. They share them equally among {c} friends. How many {things} does each friend get?",
            "{A} finds {a} {things}, then {b} more, and puts them into {c} equal rows. How many {things} are in each row?",
            "There are {a} red and {b} blue {things}. {A} packs them into {c} boxes, the same in each. How many {things} are in each box?",
            "{A} buys {a} {things} and {B} buys {b}. They fill bags of {c}. How many bags do they fill?",
        ),
    ),
)  # fmt: skip

_THREE_STEPS = (
    word_family(
        "word_multiply_add_subtract", 3, 1,
        steps="p = a * b; q = p + c; q - d", expression="a * b - d + c",
        ranges=[_TABLE, _TABLE, (2, 50), (2, 50)], largest=200,
        texts=(
            "{A} has {a} boxes with {b} {things} each, buys {c} more and gives {d} to {B}. How many {things} does {A} have now?",
            "{A} fills {a} rows with {b} {things} each. {B} adds {c} and takes {d} away. How many {things} are there now?",
            "A shop gets {a} packs of {b} {things} and has {c} more. It sells {d}. How many {things} are left?",
            "{A} makes {a} {things} a day for {b} days, finds {c} more and loses {d}. How many {things} are left?",
        ),
    ),
    word_family(
        "word_two_products", 3, 1,
        steps="p = a * b; q = c * d; p + q", expression="d * c + b * a",
        ranges=[_TABLE] * 4, largest=288,
        texts=(
            "{A} has {a} boxes with {b} {things} each and {c} bags with {d} {things} each. How many {things} does {A} have?",
            "{A} buys {a} packs of {b} {things}. {B} buys {c} packs of {d} {things}. How many {things} do they buy together?",
            "There are {a} rows of {b} red {things} and {c} rows of {d} blue {things}. How many {things} are there in all?",
            "{A} gets {a} {things} a day for {b} days and then {c} a day for {d} days. How many {things} does {A} get?",
        ),
    ),
    word_family(
        "word_share_rest", 3, 1,
        steps="p = a - b; q = p / c; q + d", expression="(a + c * d - b) / c",
        ranges=[(20, 99), (2, 50), (2, 10), (2, 30)], largest=100,
        texts=(
            "{A} has {a} {things}, keeps {b} and shares the rest equally among {c} friends. One friend had {d} {things} before. How many {things} does that friend have now?",
            "{A} has {a} {things} and loses {b}. The rest goes into {c} equal boxes. {B} puts {d} more into one box. How many {things} are in that box?",
            "{A} sells {b} of {a} {things} and splits the rest equally among {c} children. {B} is one of them and had {d} already. How many {things} does {B} have now?",
        ),
    ),
)  # fmt: skip

FAMILIES = (*_ONE_STEP, *_TWO_STEPS, *_THREE_STEPS)
