"""Benchmarks read all rows or none, and ask without giving anything away."""

import json

import pytest

from megatron_math.answers.equal import equal_many
from megatron_math.answers.extract import RULES, extract_answer
from megatron_math.base.errors import UserError
from megatron_math.benchmarks.load import benchmark_names, load_benchmark, load_config


def heldout_row(number, **more):
    meta = {"level": 1, "operands_seen": number % 2 == 0, "family": "word_add"}
    row = {"id": f"t{number}", "problem": f"What is {number} + 1?", "answer": str(number + 1)}
    return row | {"source": "template", "solution": "", "meta": meta} | more


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_yaml_loads_and_names_itself():
    assert benchmark_names() == ["gsm8k", "heldout_templates", "math500", "svamp"]
    for name in benchmark_names():
        config = load_config(name)
        assert config.name == name
        assert tuple(config.answer_rules) == RULES


def test_worked_examples_end_in_an_answer_that_the_rules_find():
    for name in benchmark_names():
        config = load_config(name)
        for example in config.examples:
            found = extract_answer(example.solution)
            assert found.rule in ("boxed", "stated"), example
            assert not any(stop in example.solution for stop in config.stop)


@pytest.mark.parametrize(
    ("name", "rows", "group"),
    [("gsm8k", 1319, None), ("math500", 500, "level"), ("svamp", 1000, "type")],
)
def test_real_rows_are_all_read(shared_data, name, rows, group):
    benchmark = load_benchmark(name, data=shared_data)
    assert len(benchmark.rows) == rows
    assert group is None or all(row.groups[group] for row in benchmark.rows)
    zero_shot = benchmark.prompt(benchmark.rows[0])
    assert zero_shot == f"Question: {benchmark.rows[0].problem}\nSolution:"
    five_shots = benchmark.prompt(benchmark.rows[0], shots=5)
    assert five_shots.endswith("\n\n" + zero_shot)
    assert five_shots.count("\nSolution:") == 6


def test_no_worked_example_is_a_row(shared_data):
    for name in ("gsm8k", "math500", "svamp"):
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
    with pytest.raises(UserError, match="known are gsm8k"):
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
