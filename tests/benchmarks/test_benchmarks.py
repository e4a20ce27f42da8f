"""Benchmarks read all rows or none, and ask without giving anything away."""

import json

import pytest

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import RULES, extract_answer
from megatron_math.base.errors import UserError
from megatron_math.benchmarks.load import benchmark_names, has_rows, load_benchmark, load_config

HERE = {"gsm8k", "math500", "svamp", "aqua", "sat_math", "mmlu_stem_600", "gaokao_cloze"}
NOT_HERE = {
    "math", "asdiv", "mawps", "carp_en", "tabmwp", "mmlu", "mmlu_stem", "minerva", "gsm_hard",
    "gaokao", "gaokao_qa", "zhongkao", "cmath", "mgsm_zh", "aime24", "amc", "olympiadbench",
    "minif2f",
}  # fmt: skip
# A row of each set that is not here, as its source describes it, and its reference.
ROWS = {
    "math": (
        {
            "problem": "p",
            "solution": "so $\\boxed{\\frac{1}{2}}$.",
            "type": "Algebra",
            "level": "Level 1",
        },
        r"\frac{1}{2}",
    ),
    "asdiv": (
        {"body": "b", "question": "q?", "answer": "9 (apples)", "solution_type": "Addition"},
        "9",
    ),
    "mawps": ({"input": "q", "target": 8.0}, "8"),
    "carp_en": ({"content": "q", "answer": "$a+2$", "steps": "s"}, "$a+2$"),
    "tabmwp": (
        {
            "table": "a | b",
            "question": "q",
            "choices": ["yes", "no"],
            "answer": "yes",
            "ques_type": "multi_choice",
        },
        "yes",
    ),
    "mmlu": (
        {"question": "q", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 2},
        "C",
    ),
    "mmlu_stem": (
        {"question": "q", "type": "law", "choices": ["a", "b", "c", "d"], "answer": 0},
        "A",
    ),
    "minerva": ({"question": "q", "answer": "1.7e-5"}, "1.7e-5"),
    "gsm_hard": ({"input": "q", "code": "c", "target": 12345678.0}, "12345678"),
    "gaokao": ({"problem": "p", "answer": "7"}, "7"),
    "gaokao_qa": (
        {"question": "q", "options": ["(A)1", "(B)2"], "label": "B", "answer": None},
        "B",
    ),
    "zhongkao": ({"problem": "p", "answer": "7"}, "7"),
    "cmath": ({"grade": 2, "question": "q", "golden": "15"}, "15"),
    "mgsm_zh": ({"question": "q", "answer": None, "answer_number": 18}, "18"),
    "aime24": ({"problem": "p", "answer": "204"}, "204"),
    "amc": ({"problem": "p", "answer": 142.0}, "142"),
    "olympiadbench": (
        {"id": 1606, "question": "q", "final_answer": ["2", "-3"], "subfield": "Algebra"},
        "2, -3",
    ),
    "minif2f": ({"id": "m", "informal_stmt": "Show it."}, ""),
}


def heldout_row(number, **more):
    meta = {"level": 1, "operands_seen": number % 2 == 0, "family": "word_add"}
    row = {"id": f"t{number}", "problem": f"What is {number} + 1?", "answer": str(number + 1)}
    return row | {"source": "template", "solution": "", "meta": meta} | more


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_yaml_loads_and_names_itself():
    assert set(benchmark_names()) == HERE | NOT_HERE | {"heldout_templates"}
    for name in benchmark_names():
        config = load_config(name)
        assert config.name == name
        assert tuple(config.answer_rules)[-3:] == RULES or "choice" in config.answer_rules
        assert config.rows.endswith(".jsonl")


def test_worked_examples_end_in_an_answer_that_the_rules_find():
    for name in benchmark_names():
        config = load_config(name)
        for example in config.examples:
            found = extract_answer(example.solution)
            assert found.rule in ("boxed", "stated"), example
            assert "choice" not in config.answer_rules or found.answer in "ABCDE"
            assert not any(stop in example.solution for stop in config.stop)


@pytest.mark.parametrize(
    ("name", "rows", "group"),
    [
        ("gsm8k", 1319, None),
        ("math500", 500, "level"),
        ("svamp", 1000, "type"),
        ("aqua", 254, None),
        ("sat_math", 32, None),
        ("mmlu_stem_600", 600, "subject"),
        ("gaokao_cloze", 118, None),
    ],
)
def test_real_rows_are_all_read(shared_data, name, rows, group):
    benchmark = load_benchmark(name, data=shared_data)
    assert len(benchmark.rows) == rows
    assert group is None or all(row.groups[group] for row in benchmark.rows)
    zero_shot = benchmark.prompt(benchmark.rows[0])
    question, solution = (
        ("问题：", "解答：") if name == "gaokao_cloze" else ("Question: ", "Solution:")
    )
    assert zero_shot == f"{question}{benchmark.rows[0].asked}\n{solution}"
    five_shots = benchmark.prompt(benchmark.rows[0], shots=5)
    assert five_shots.endswith("\n\n" + zero_shot)
    assert five_shots.count(f"\n{solution}") == 6


def test_no_worked_example_is_a_row(shared_data):
    for name in HERE:
        benchmark = load_benchmark(name, data=shared_data)
        problems = {row.problem for row in benchmark.rows}
        assert not problems & {example.problem for example in benchmark.config.examples}


def test_gold_solutions_are_graded_right(shared_data):
    """GSM8K's and MATH-500's own solutions score 100 %: any loss would be the grader's."""
    gsm8k = load_benchmark("gsm8k", data=shared_data)
    with open(shared_data / "gsm8k/test.jsonl") as file:
        gold = [json.loads(line)["answer"] for line in file]
    pairs = [
        (extract_answer(text).answer, row.reference)
        for text, row in zip(gold, gsm8k.rows, strict=True)
    ]
    math500 = load_benchmark("math500", data=shared_data)
    with open(shared_data / "eval/math-oai.jsonl") as file:
        gold = [json.loads(line)["solution"] for line in file]
    pairs += [
        (extract_answer(text).answer, row.reference)
        for text, row in zip(gold, math500.rows, strict=True)
    ]
    assert all(verdict.correct for verdict in equal_many(pairs))


def test_svamp_reads_whole_numbers_and_closes_sentences(shared_data):
    row = load_benchmark("svamp", data=shared_data).rows[0]
    assert row.reference == "145"
    assert "93 groups. How big" in row.problem


def test_groups_may_combine_fields(tmp_path):
    rows = write_rows(tmp_path / "heldout.jsonl", [heldout_row(1), heldout_row(2)])
    benchmark = load_benchmark("heldout_templates", rows=rows)
    assert [row.groups["level, operands_seen"] for row in benchmark.rows] == ["1, false", "1, true"]
    assert len(benchmark.rows_sha256) == 64


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([heldout_row(1), {"id": "x", "problem": "no answer"}], "line 2: no field 'answer'"),
        ([heldout_row(1, answer=" ")], "line 1: an empty problem or reference"),
        ([heldout_row(1, answer=["4"])], "must be text or a number"),
        ([heldout_row(1), heldout_row(1)], "1 different ids"),
        ([heldout_row(1, meta={"level": 1})], "no field 'meta.operands_seen'"),
        ([], "no rows"),
    ],
)
def test_rows_that_cannot_be_read_stop(tmp_path, rows, message):
    path = write_rows(tmp_path / "heldout.jsonl", rows)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        load_benchmark("heldout_templates", rows=path)


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = write_rows(tmp_path / "heldout.jsonl", [heldout_row(1)])
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(UserError, match=r"heldout\.jsonl, line 2"):
        load_benchmark("heldout_templates", rows=path)


def test_a_missing_final_answer_in_gsm8k_stops(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "q", "answer": "it is 5"}])
    with pytest.raises(UserError, match="answer pattern"):
        load_benchmark("gsm8k", rows=path)


def test_a_wrong_number_of_rows_stops(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    write_rows(tmp_path / "gsm8k/test.jsonl", [{"question": "q", "answer": "#### 5"}])
    with pytest.raises(UserError, match="1 rows where 1319 are expected"):
        load_benchmark("gsm8k", data=tmp_path)


def test_unknown_names_missing_data_and_too_many_shots(tmp_path, monkeypatch):
    monkeypatch.delenv("MEGATRON_MATH_DATA", raising=False)
    with pytest.raises(UserError, match="known are aime24, amc, aqua"):
        load_benchmark("gsm9k")
    with pytest.raises(UserError, match=r"evaluate\.data"):
        load_benchmark("gsm8k")
    with pytest.raises(UserError, match="there is no file"):
        load_benchmark("gsm8k", data=tmp_path)
    rows = write_rows(tmp_path / "heldout.jsonl", [heldout_row(1)])
    benchmark = load_benchmark("heldout_templates", rows=rows)
    with pytest.raises(UserError, match="ask for 0 to 3"):
        benchmark.prompt(benchmark.rows[0], shots=4)


def test_the_environment_names_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "gsm8k").mkdir()
    write_rows(
        tmp_path / "gsm8k/test.jsonl",
        [{"question": f"q{i}", "answer": "#### 5"} for i in range(1319)],
    )
    monkeypatch.setenv("MEGATRON_MATH_DATA", str(tmp_path))
    assert load_benchmark("gsm8k").rows[7].id == "7"


def test_a_yaml_with_a_wrong_template_or_key_is_refused(tmp_path):
    good = load_config("svamp").model_dump() | {"prompt": "Q: {question}"}
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(good))
    with pytest.raises(UserError, match="must use exactly"):
        load_config(str(path))
    path.write_text(json.dumps(good | {"prompt": "{problem}", "stops": []}))
    with pytest.raises(UserError, match="did you mean 'stop'"):
        load_config(str(path))


@pytest.mark.parametrize("name", sorted(NOT_HERE))
def test_sets_that_are_not_here_say_what_to_get_and_read_a_row(tmp_path, name):
    with pytest.raises(UserError, match=rf"benchmark {name}: there is no file") as told:
        load_benchmark(name, data=tmp_path)
    assert not has_rows(name, tmp_path)
    source = load_config(name).source
    assert source.hub or source.note
    assert (source.hub or source.note.rstrip(".")) in str(told.value)
    assert source.hub is None or str(tmp_path / load_config(name).rows) in str(told.value)
    row, reference = ROWS[name]
    (found,) = load_benchmark(name, rows=write_rows(tmp_path / "rows.jsonl", [row])).rows
    assert found.reference == reference
    assert found.problem


def test_choices_are_shown_and_searched_apart(shared_data):
    row = load_benchmark("mmlu_stem_600", data=shared_data).rows[0]
    assert row.reference == "C"
    assert row.options.startswith("A) maintain the population")
    assert "A) maintain" not in row.problem, "what is looked for in training text has no options"
    aqua = load_benchmark("aqua", data=shared_data)
    assert "\nA)5(√3 + 1)\nB)6" in aqua.prompt(aqua.rows[0])


def test_ways_of_asking(shared_data):
    benchmark = load_benchmark("gsm8k", data=shared_data)
    row = benchmark.rows[0]
    assert benchmark.prompt(row, way="chat").startswith(row.problem)
    assert "\\boxed{}" in benchmark.prompt(row, way="chat")
    assert "```python" in benchmark.prompt(row, way="tool")
    for name in benchmark_names():
        config = load_config(name)
        assert "p" in config.chat.format(problem="p")
        assert "p" in config.tool.format(problem="p")


def test_what_says_nothing_stays_out_of_fingerprints():
    identity = load_config("gsm8k").identity()
    assert not {"source", "options", "chat", "tool", "examples_of"} & set(identity)
    assert identity["reference"] == {"field": "answer", "pattern": "####\\s*(.+?)\\s*$"}


def test_an_option_that_is_not_there_stops(tmp_path):
    row = ROWS["mmlu"][0] | {"answer": 12}
    path = write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError, match="the number of an option is expected"):
        load_benchmark("mmlu", rows=path)
    row = ROWS["math"][0] | {"solution": "no box"}
    path = write_rows(tmp_path / "rows.jsonl", [row])
    with pytest.raises(UserError, match="no boxed answer"):
        load_benchmark("math", rows=path)
