"""The filters: what is broken goes, with its number; real mathematics stays."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toy_web import gsm8k, math500, read_rows, stacks, wikitext, write_rows

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.curate import filters
from megatron_math.curate.filters import Filters
from megatron_math.curate.filters_config import FiltersConfig, LanguageConfig
from megatron_math.curate.language import language_of
from megatron_math.curate.run import run

EVERYTHING, PLANTED_IN = False, 150
"""Of GSM8K 1,000 problems, and of the others so many texts for planted faults: the whole takes long
and gives the same (docs/curate.md has its figures)."""
LATIN = LanguageConfig(keep=["en", "zh"])
LANGUAGES = {
    "en": "The sum of two even numbers is always even, and "
    "we can show that this holds for all of them.",
    "zh": "两个偶数的和总是偶数，我们可以证明这对所有的偶数都成立。",
    "ja": "二つの偶数の和は常に偶数であり、これはすべて"
    "の偶数について成り立つことを示すことができる。",
    "ko": "두 짝수의 합은 항상 짝수이며 이것이 모든 짝수에 대해 성립함을 보일 수 있다.",
    "ru": "Сумма двух чётных чисел всегда чётна, и мы "
    "можем показать, что это верно для всех чисел.",
    "ar": "مجموع عددين زوجيين هو دائما عدد زوجي ويمكننا أن نبين أن هذا صحيح لجميع الأعداد.",
    "el": "Το άθροισμα δύο άρτιων αριθμών είναι πάντα "
    "άρτιος και μπορούμε να το δείξουμε για όλους.",
    "fr": "La somme de deux nombres pairs est toujours paire, "
    "et on peut le montrer pour tous les nombres.",
    "de": "Die Summe von zwei geraden Zahlen ist immer "
    "gerade, und das gilt auch für alle anderen Zahlen.",
    "es": "La suma de dos números pares es siempre par, y "
    "esto se puede mostrar para todos los números.",
    "it": "La somma di due numeri pari è sempre pari, e questo si può mostrare per tutti i numeri.",
    "pt": "A soma de dois números pares é sempre par, e isso "
    "também pode ser mostrado para todos os números.",
    "nl": "De som van twee even getallen is altijd even, en dat "
    "geldt ook voor alle andere getallen van een rij.",
    "sv": "Summan av två jämna tal är alltid jämn, och det går att visa för alla tal som vi har.",
    "pl": "Suma dwóch liczb parzystych jest zawsze parzysta, a to "
    "się da pokazać dla wszystkich liczb i dla każdej pary.",
    "tr": "İki çift sayının toplamı her zaman çifttir ve bu "
    "bütün sayılar için de doğru olarak gösterilir.",
    "ro": "Suma a două numere pare este întotdeauna pară și acest "
    "lucru poate fi arătat pentru toate numerele din șir.",
    "id": "Jumlah dari dua bilangan genap adalah selalu genap dan "
    "ini dapat ditunjukkan untuk setiap bilangan yang ada.",
    "vi": "Tổng của hai số chẵn là một số chẵn và điều này "
    "được chứng minh cho các số khác với cùng cách.",
}  # fmt: skip


@pytest.fixture(scope="module")
def corpora(shared_data: Path) -> dict[str, list[str]]:
    found = {
        "gsm8k": gsm8k(shared_data, 0, 7473 if EVERYTHING else 1000, notes=True),
        "math500": [f"{row['problem']}\n{row['solution']}" for row in math500(shared_data)],
        "stacks": stacks(shared_data),
        "wikitext": wikitext(shared_data, "valid"),
    }
    for name in ("cot_pretrain", "tool_pretrain", "finetune"):
        path = shared_data / "jiuzhang3" / f"{name}_data_sampled.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[name] = [f"{row['input']}\n{row['output']}" for row in rows]
    gaokao = (shared_data / "eval" / "gaokao_mathcloze.jsonl").read_text(encoding="utf-8")
    found["gaokao"] = [json.loads(line)["question"] for line in gaokao.splitlines()]
    return found


def reasons(texts: list[str], config: FiltersConfig) -> Counter[str]:
    sieve = Filters(config)
    drops = [sieve.drop(text) for text in texts]
    return Counter(drop["reason"] for drop in drops if drop is not None)


def test_real_mathematics_stays(corpora: dict[str, list[str]]) -> None:
    """Every drop was read, and most of those of JiuZhang3.0's samples are broken."""
    config = FiltersConfig(language=LATIN)
    found = {name: reasons(texts, config) for name, texts in corpora.items()}
    for name, counts in found.items():
        print(name, len(corpora[name]), dict(counts), f"{counts.total() / len(corpora[name]):.2%}")
    for name, most in MOST_DROPPED.items():
        assert found[name].total() <= most * len(corpora[name]), name
    assert set(MOST_DROPPED) == set(corpora)


MOST_DROPPED = {
    "gsm8k": 0,
    "math500": 0,
    "stacks": 0,
    "wikitext": 0,
    "cot_pretrain": 0.01,
    "tool_pretrain": 0.01,
    "finetune": 0.014,
    "gaokao": 0,
}


def without_one(pattern: str, text: str, draw: random.Random) -> str | None:
    """`text` without one match of a pattern, drawn at random; None where there is none."""
    places = [match.span() for match in re.finditer(pattern, text)]
    if not places:
        return None
    begin, end = draw.choice(places)
    return text[:begin] + text[end:]


def misread(text: str, draw: random.Random) -> str | None:
    """UTF-8 with some letters beyond ASCII, read as Windows-1252."""
    accented = re.sub("e", lambda match: "é" if draw.random() < 0.05 else "e", text)
    return accented.encode().decode("cp1252", "replace") if accented != text else None


def again_and_again(text: str, draw: random.Random) -> str | None:
    lines = [line for line in text.split("\n") if line.strip()]
    return text + "\n" + "\n".join(draw.choice(lines) for _ in range(2 * len(lines)))


@pytest.mark.parametrize(
    ("rule", "fault", "least"),
    [
        ("math", lambda text, draw: without_one(r"(?<!\\)\$", text, draw), 0.9),
        ("math", lambda text, draw: without_one(r"\\[()]", text.replace("$", ""), draw), 0.99),
        ("braces", lambda text, draw: without_one(r"(?<!\\)[{}]", text, draw), 0.99),
        ("environments", lambda text, draw: without_one(r"\\(?:begin|end)\{\w+\*?\}", text, draw),
         0.99),
        ("mojibake", misread, 0.99),
        ("repeated_lines", again_and_again, 0.99),
    ],
)  # fmt: skip
def test_planted_faults_are_found_by_their_rule(
    corpora: dict[str, list[str]],
    rule: str,
    fault: Callable[[str, random.Random], str | None],
    least: float,
) -> None:
    draw = random.Random(0)
    sieve = Filters(FiltersConfig())
    sound = [
        text
        for name in ("math500", "stacks", "cot_pretrain")
        for text in corpora[name][:PLANTED_IN]
        if sieve.drop(text) is None and "[asy]" not in text
    ]
    planted = [broken for text in sound if (broken := fault(text, draw)) is not None]
    assert len(planted) > 100
    found = sum(rule in failed(sieve, text) for text in planted)
    print(rule, f"{found} of {len(planted)}")
    assert found >= least * len(planted)
    off = Filters(FiltersConfig.model_validate({rule: None}))
    assert not any(rule in failed(off, text) for text in planted[:50])


def failed(sieve: Filters, text: str) -> dict[str, float]:
    return (sieve.drop(text) or {"failed": {}})["failed"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It costs $5.", 0),
        ("It costs $5 and the tax is $0.40, $ 3 more.", 0),
        ("Of $60 she earned $60 * 1/2 = $<<60*1/2=30>>30.", 0),
        ("With $5 in hand, $x + 1$ more.", 0),
        ("$3 + 4$ and $$x$$ and \\$7", 0),
        ("We have $x + 1.", 1),
        ("We have $x.\n\nAnd y$.", 2),
        (r"\( x \) and \[ y \\[2pt] z \]", 0),
        (r"\( x and y \]", 2),
        ("no signs at all", 0),
    ],
)
def test_lonely_dollars(text: str, number: int) -> None:
    assert filters.lonely_math(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [(r"\{ 1 \}", 0), ("{a{b}}", 0), ("}{", 2), (r"\frac{1}{2", 1), (r"\\{a}", 0), ("```\n", 0)],
)
def test_lonely_braces(text: str, number: int) -> None:
    assert filters.lonely_braces(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"\begin{a}\begin{b}\end{b}\end{a}", 0),
        (r"\begin{a}\begin{b}\end{a}", 1),
        (r"\end{a}\begin{a}", 2),
        (r"\begin{align*}x\end{align}", 2),
    ],
)
def test_lonely_environments(text: str, number: int) -> None:
    assert filters.lonely_environments(text) == number


def test_shares() -> None:
    assert filters.command_share(r"\alpha \beta x") == pytest.approx(11 / 12)
    assert filters.command_share("x " * 9 + "\\\\") == pytest.approx(2 / 11)
    assert filters.repeated_share("a\nbb\n a \n") == pytest.approx(1 / 4)
    assert filters.mojibake_share("CafÃ© donâ€™t \ufffd") == pytest.approx(6 / 15)
    misread_chinese = "求和".encode().decode("cp1252", "replace")
    assert filters.mojibake_share(f"{misread_chinese}=1") == pytest.approx(6 / 8)
    assert filters.mojibake_share("Café, Ålesund, São Paulo: naïve “quotes” – 求和 ± 2²") == 0
    assert filters.command_share("  ") == filters.repeated_share("\n\n") == 0


def test_code_is_not_looked_at() -> None:
    code = "Text.\n```python\nprint('$', '{', r'\\begin{x}')\n```\nMore."
    assert Filters(FiltersConfig()).drop(code) is None
    assert Filters(FiltersConfig()).drop(code + " $x") is not None
    assert Filters(FiltersConfig()).drop("Text [asy] label('$'); { [/asy]") is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages(language: str) -> None:
    text = LANGUAGES[language]
    with_formulas = f"$$\\int_0^1 x^2\\,dx = \\frac13$$ {text} \\(a_n = \\sin(n)\\) {text}"
    assert language_of(text)[0] == language_of(with_formulas)[0] == language
    drop = Filters(FiltersConfig(language=LATIN)).drop(text)
    if language in ("en", "zh"):
        assert drop is None
    else:
        assert drop is not None
        assert (drop["reason"], drop["value"]) == ("filter language", language)


def test_what_has_no_language(corpora: dict[str, list[str]]) -> None:
    for text in ("", "$x$", "123 456", "Simplify $\\sqrt{242}$.", "zyx wvu tsr qpo nml kji"):
        assert language_of(text)[0] is None
        assert Filters(FiltersConfig(language=LATIN)).drop(text) is None
    strict = LanguageConfig(keep=["en"], unknown="drop")
    drop = Filters(FiltersConfig(language=strict)).drop("Simplify $\\sqrt{242}$.")
    assert drop is not None
    assert drop["value"] == "unknown"
    counts = Counter(language_of(text)[0] for text in corpora["wikitext"] + corpora["gsm8k"])
    assert counts["en"] >= 0.998 * counts.total()


def test_a_road_drops_with_reason_and_number(tmp_path: Path) -> None:
    rows = [
        {"id": "0", "text": "The sum $x + 1 is not closed, and so is this one {."},
        {"id": "1", "problem": LANGUAGES["fr"], "solution": "Un, deux et trois."},
        {"id": "2", "problem": "What is $1 + 1$?", "solution": "It is 2, as we all know."},
    ]
    source = write_rows(tmp_path / "a.jsonl", rows)
    section = {
        "sources": {"a": {"path": str(source)}},
        "filters": {"language": {"keep": ["en"]}},
    }
    path = tmp_path / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "filters", "curate": section}))
    folder = run(Road.load(path, runs=tmp_path / "runs")).folder
    assert [row["id"] for row in read_rows(folder / "a.jsonl")] == ["2"]
    first, second = read_rows(folder / "drops" / "a.jsonl")
    assert (first["reason"], first["value"], first["limit"]) == ("filter math", 1, 0)
    assert first["failed"] == {"math": 1, "braces": 1}
    assert (second["reason"], second["value"]) == ("filter language", "fr")
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["sources"]["a"]["reasons"] == {"filter language": 1, "filter math": 1}
    with pytest.raises(UserError, match="did you mean 'braces'"):
        run(Road.load(path, ["curate.filters.brace=1"], runs=tmp_path / "runs"))
