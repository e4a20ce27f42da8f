"""Every prompt: placeholders, the same tags in both languages, what it looks like when filled."""

import hashlib
import re
from pathlib import Path

import jinja2
import jinja2.meta
import pytest

from megatron_math.base.errors import UserError
from megatron_math.synthesize.excerpt_config import STAGES
from megatron_math.synthesize.methods import (
    diversification,
    excerpts,
    expansion,
    retrospective,
    tutorship,
)
from megatron_math.synthesize.prompts import LANGUAGES, OWN, Prompts

PLACES = {
    "solve.problem": {"problem"},
    "judge.solution": {"problem", "solution"},
    "expansion.ask": {"problem", "solution", "answer"},
    "diversification.ask": {"problem", "solution"},
    "retrospective.slip": {"problem", "steps"},
    "tutorship.judge": {"problem", "steps", "answer"},
    "excerpts.tool": {"excerpt", "example_problem", "example_solution"},
    **{f"excerpts.{stage}": {"excerpt"} for stage in STAGES},
}
TAGS = {
    "solve.problem": [],
    "judge.solution": ["Check", "Reason"],
    "expansion.ask": list(expansion.TAGS),
    "diversification.ask": [diversification.RESPONSE, *diversification.SOLUTIONS,
                            diversification.RESPONSE, "Reason"],
    "retrospective.slip": list(retrospective.TAGS),
    "tutorship.judge": [*tutorship.RIGHT_TAGS, *tutorship.WRONG_TAGS],
    **{f"excerpts.{prompt}": list(excerpts.TAGS) for prompt in (*STAGES, "tool")},
}  # fmt: skip
VALUES = {
    "problem": "What is {{ 7 * 6 }} {% raw %} & <b>3 + 4</b>?",
    "solution": "3 + 4 = 7",
    "answer": "7",
    "steps": "[1] 3 + 4 = 7",
    "excerpt": "{{ excerpt }} Seven apples {# and #} pears.",
    "example_problem": "What is 6 * 7?",
    "example_solution": "```python\nprint(6 * 7)\n```",
}


def text_of(name: str, language: str) -> str:
    return (OWN / f"{name}.{language}.md").read_text(encoding="utf-8")


def test_there_are_no_other_prompts() -> None:
    files = {path.name for path in OWN.glob("*.md")}
    assert files == {f"{name}.{language}.md" for name in PLACES for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PLACES)
def test_placeholders(name: str, language: str) -> None:
    tree = jinja2.Environment().parse(text_of(name, language))
    assert jinja2.meta.find_undeclared_variables(tree) == PLACES[name]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PLACES)
def test_both_languages_ask_for_the_tags_that_are_read(name: str, language: str) -> None:
    asked = re.findall(r"^([A-Z][a-z]+(?: \d)?): \S", text_of(name, language), re.MULTILINE)
    assert asked == TAGS[name]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("name", "tag", "words"),
    [
        ("judge.solution", "Check", ("correct", "wrong")),
        ("tutorship.judge", "Check", ("correct", "wrong")),
        ("expansion.ask", "Check 2", ("accept", "refuse")),
        ("diversification.ask", "Response", ("accept", "refuse")),
    ],
)
def test_the_words_of_a_choice_are_said(
    name: str, tag: str, words: tuple[str, str], language: str
) -> None:
    choices = re.findall(rf"^{tag}: (.*)$", text_of(name, language), re.MULTILINE)
    assert choices
    for word in words:
        assert any(word in choice for choice in choices)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PLACES)
def test_a_seed_is_data_and_never_a_template(name: str, language: str) -> None:
    values = {key: VALUES[key] for key in PLACES[name]}
    prompt = Prompts(language).render(name, **values)
    for value in values.values():
        assert value in prompt
    assert "{{ problem" not in prompt
    assert prompt.count("{{ excerpt }}") == ("excerpt" in values)


GOLDEN = {
    ("solve.problem", "en"): "25e87017",
    ("solve.problem", "zh"): "50923877",
    ("judge.solution", "en"): "abfaf455",
    ("judge.solution", "zh"): "3387dc6c",
    ("expansion.ask", "en"): "2dd33bf7",
    ("expansion.ask", "zh"): "b90d426a",
    ("diversification.ask", "en"): "f3bc502f",
    ("diversification.ask", "zh"): "290bf270",
    ("retrospective.slip", "en"): "4382c2fe",
    ("retrospective.slip", "zh"): "84d42392",
    ("tutorship.judge", "en"): "bed40c77",
    ("tutorship.judge", "zh"): "47429761",
    ("excerpts.tool", "en"): "832c8567",
    ("excerpts.tool", "zh"): "8d17260d",
    ("excerpts.grade", "en"): "03499d24",
    ("excerpts.grade", "zh"): "b9308fb1",
    ("excerpts.middle", "en"): "413a0afe",
    ("excerpts.middle", "zh"): "6b7f6aa4",
    ("excerpts.high", "en"): "74a6b675",
    ("excerpts.high", "zh"): "dcb00fa1",
    ("excerpts.college", "en"): "3985bfae",
    ("excerpts.college", "zh"): "27516815",
    ("excerpts.amc8", "en"): "00b7ea00",
    ("excerpts.amc8", "zh"): "2c7b2c44",
    ("excerpts.amc10", "en"): "9acf860c",
    ("excerpts.amc10", "zh"): "8e856082",
    ("excerpts.amc12", "en"): "19065360",
    ("excerpts.amc12", "zh"): "d5a1d47c",
    ("excerpts.aime", "en"): "622b731a",
    ("excerpts.aime", "zh"): "0c905aea",
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PLACES)
def test_golden_renderings(name: str, language: str) -> None:
    """A changed prompt makes other data: change the digest here on purpose only."""
    prompt = Prompts(language).render(name, **{key: VALUES[key] for key in PLACES[name]})
    assert hashlib.sha256(prompt.encode()).hexdigest()[:8] == GOLDEN[name, language]


def test_what_is_not_known_is_left_out() -> None:
    prompts = Prompts("en")
    with_answer = prompts.render("tutorship.judge", problem="p", steps="[1] s", answer="7")
    without = prompts.render("tutorship.judge", problem="p", steps="[1] s", answer=None)
    assert "known to you: 7" in with_answer
    assert "known to you" not in without
    asked = prompts.render("diversification.ask", problem="p", solution=None)
    assert "Given solution" not in asked
    assert "given solution" not in asked


def test_own_prompts_take_the_place(tmp_path: Path) -> None:
    (tmp_path / "solve.problem.en.md").write_text("Q: {{ problem }}\nA:\n")
    own = Prompts("en", tmp_path)
    assert own.render("solve.problem", problem="3 + 4?") == "Q: 3 + 4?\nA:"
    assert own.sha256("solve.problem") != Prompts("en").sha256("solve.problem")
    assert own.sha256("judge.solution") == Prompts("en").sha256("judge.solution")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("solve.problem.en.md", "{{ question }}", "'question' is undefined; it may use problem"),
        ("solve.problem.en.md", "{% if %}", "is no jinja2 template"),
        ("solve.problem.en.md", "{{ problem.__class__.__mro__ }}", "cannot be filled"),
        ("solv.problem.en.md", "x", "holds solv.problem.en.md, which no method asks"),
    ],
)
def test_own_prompts_that_cannot_be_used(
    tmp_path: Path, file: str, text: str, message: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        Prompts("en", tmp_path).render("solve.problem", problem="p")
