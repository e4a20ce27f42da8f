"""The blend language: what is understood, and what is refused with which words."""

from fractions import Fraction

import pytest

from megatron_math.base.config import parse_section
from megatron_math.base.errors import UserError
from megatron_math.blend.config import BlendConfig, resolve

WEB = {"share": 1, "path": "web"}


def understand(**blend):
    return resolve(parse_section(BlendConfig, {"sequence_length": 64, **blend}, "blend"))


def test_the_shorthand_is_one_stage_named_train():
    (stage,) = understand(tokens="1.5M", mix={"web": WEB})
    assert (stage.name, stage.tokens, stage.sequence_length) == ("train", 1_500_000, 64)
    (leaf,) = stage.mix.leaves()
    assert (leaf.pack, leaf.attend, leaf.loss, leaf.align) == ("concat", "inside", "all", 1)


def test_defaults_and_overrides_reach_the_leaves():
    stages = understand(
        align=16,
        stages=[
            {"name": "cpt", "tokens": "2B", "mix": {"g": {"share": 4, "of": {"web": WEB}}}},
            {
                "name": "sft",
                "sequence_length": 32,
                "mix": {"p": {"epochs": 2, "align": 2, "loss": "solution", "pack": "whole"}},
            },
        ],
    )
    (web,), (problems,) = (list(stage.mix.leaves()) for stage in stages)
    assert (web.align, web.groups) == (16, ("g",))
    assert (problems.align, problems.loss, problems.index_source) == (2, ["solution"], "p")
    assert stages[1].sequence_length == 32


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("100B", 10**11), ("1.5M", 1_500_000), ("2T", 2 * 10**12), ("8k", 8000), (77, 77)],
)
def test_token_counts_in_words(text, tokens):
    assert understand(tokens=text, mix={"web": WEB})[0].tokens == tokens


def test_decimal_shares_are_exact():
    (stage,) = understand(tokens=9, mix={"a": {"share": 0.1}, "b": {"share": 0.7}})
    assert [leaf.amount for leaf in stage.mix.leaves()] == [Fraction(1, 10), Fraction(7, 10)]


@pytest.mark.parametrize(
    ("blend", "words"),
    [
        ({"tokens": 9, "mix": {"a": {"shar": 1}}}, r"mix\.a\.shar: .*did you mean 'share'"),
        (
            {"tokens": 9, "mix": {"g": {"share": 1, "of": {"a": {"share": 1, "pakc": "whole"}}}}},
            "did you mean 'pack'",
        ),
        ({"tokns": 9, "mix": {"a": WEB}}, "did you mean 'tokens'"),
        ({"tokens": 9, "mix": {"a": {"share": 0}}}, r"mix\.a\.share: .*greater than 0"),
        ({"tokens": 9, "mix": {"a": {"share": -1}}}, "greater than 0"),
        ({"tokens": 9, "mix": {"a": {"share": 1}, "b": {"epochs": 1}}}, "a: share, b: epochs"),
        ({"tokens": 9, "mix": {"a": {"share": 1, "epochs": 1}}}, "found share and epochs"),
        ({"tokens": 9, "mix": {"a": {"path": "x"}}}, "found none"),
        ({"mix": {"a": {"share": 1}}}, "needs a budget"),
        ({"tokens": 9, "mix": {"a": {"epochs": 1}}}, "has no effect where the sources say epochs"),
        ({"mix": {"a": {"epochs": 1, "max_epochs": 3}}}, "max_epochs: has no effect"),
        (
            {"tokens": 9, "mix": {"g": {"share": 1, "of": {"a": {"epochs": 1}}}}},
            "inside a group only `share`",
        ),
        (
            {"tokens": 9, "mix": {"g": {"share": 1, "pack": "whole", "of": {"a": WEB}}}},
            "a group has `share` and `of` only, found pack",
        ),
        (
            {"tokens": 9, "mix": {"g": {"share": 1, "of": {"a": WEB}}, "a": WEB}},
            "two sources are called 'a'",
        ),
        ({"tokens": 9, "mix": {"a": WEB | {"source": "b"}}}, "both name the index"),
        ({"tokens": 9, "mix": {"a": WEB | {"align": 5}}}, "5 does not divide sequence_length 64"),
        ({"tokens": 9, "mix": {"a": WEB | {"loss": "answers"}}}, "loss"),
        ({"tokens": "9X", "mix": {"a": WEB}}, "100B"),
        ({"tokens": "1.5", "mix": {"a": WEB}}, "whole number"),
        ({"tokens": 0, "mix": {"a": WEB}}, "greater than 0"),
        ({}, "found neither"),
        ({"stages": [], "mix": {"a": WEB}}, "found both|at least one"),
        ({"stages": []}, "at least one stage"),
        ({"mix": {}}, "at least one"),
        ({"tokens": 9, "mix": {"g": {"share": 1, "of": {}}}}, "found an empty mapping"),
        ({"validation": 1.0, "tokens": 9, "mix": {"a": WEB}}, "less than 1"),
        (
            {"stages": [{"name": "a", "tokens": 1, "mix": {"w": WEB}}] * 2},
            "every stage needs its own name",
        ),
        ({"stages": [{"name": "a/b", "tokens": 1, "mix": {"w": WEB}}]}, "name"),
        (
            {"tokens": 5, "stages": [{"name": "a", "tokens": 1, "mix": {"w": WEB}}]},
            "no effect beside `stages`",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(blend, words):
    with pytest.raises(UserError, match=words):
        understand(**blend)


def test_the_sequence_length_must_be_said():
    with pytest.raises(UserError, match=r"blend\.sequence_length: this key is required"):
        parse_section(BlendConfig, {"tokens": 9, "mix": {"a": WEB}}, "blend")
