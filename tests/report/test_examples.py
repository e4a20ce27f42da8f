"""Which answers are shown, and what is said of them; pairs of runs against worked-out values."""

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from run_folder import write_lines, write_road, write_run

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.proportions import Z, mcnemar_p, paired_interval, wilson_interval
from megatron_math.report.comparison import compare_runs, find_runs
from megatron_math.report.contamination import set_of
from megatron_math.report.examples import choose, common_prefix, read_examples, spaced
from megatron_math.report.paired import paired
from megatron_math.report.run import run
from megatron_math.report.scores import gain


def row(number: int, correct: bool, **changes: Any) -> dict[str, Any]:
    return {
        "id": str(number), "prompt": f"Do sums.\nQ: {number}?", "reference": "1", "output": "1",
        "extracted": "1", "correct": correct, "finish": "stop", "meta": {"level": "2"},
    } | changes  # fmt: skip


def write(folder: Path, who: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / who / "predictions.jsonl"
    write_lines(path, rows)
    return path


def test_kinds_and_counts(tmp_path: Path) -> None:
    before = [row(n, n in (0, 1)) for n in range(40)]
    after = [row(n, n in (0, 2, 3)) for n in range(40)]
    after[5] |= {"finish": "length", "extracted": None}
    sides = {who: write(tmp_path, who, rows) for who, rows in
             (("before", before), ("after", after))}  # fmt: skip
    second = {"id": "7", "correct": False, "math_verify": True}
    write_lines(sides["after"].with_name("disputed.jsonl"), [second])
    found = read_examples("sums", sides, 8)
    assert found is not None
    counts = {one["kind"]: (one["problems"], one["shown"]) for one in found["kinds"]}
    assert counts.pop("wrong")[0] == 36
    assert counts["learned"] == (2, 2)
    assert counts["lost"] == (1, 1)
    assert counts["right"] == (1, 1)
    assert counts["disputed"] == (1, 1)
    assert counts["no answer"][0] == counts["cut off"][0] == 1
    assert len(found["rows"]) == 8
    assert found["prefix"] == "Do sums.\n"
    disputed = next(one for one in found["rows"] if one["id"] == "7")
    assert disputed["answers"]["after"]["math_verify"] is True
    assert disputed["answers"]["before"]["math_verify"] is None


def test_nothing_asked_or_nothing_there_is_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "after", [row(1, True)])
    assert read_examples("sums", {"after": path}, 0) is None
    assert read_examples("sums", {"after": tmp_path / "none.jsonl"}, 5) is None
    found = read_examples("sums", {"after": path, "before": tmp_path / "none.jsonl"}, 5)
    assert found is not None
    assert found["models"] == ["after"]


def test_choice_is_spread_and_never_more_than_asked() -> None:
    assert spaced(range(10), 4) == [0, 2, 5, 7]
    kinds = [["wrong"]] * 90 + [["right"]] * 10
    chosen = choose(kinds, 30)
    assert len(chosen) == 30
    assert sum(place >= 90 for place in chosen) == 10
    assert choose(kinds, 1000) == list(range(100))
    assert len(choose([["wrong", "disputed"]] * 50 + [["right"]], 9)) == 9


def test_what_prompts_share_ends_with_a_line() -> None:
    assert common_prefix(["a b\nc d", "a b\nc e"]) == "a b\n"
    assert common_prefix(["only\none"]) == ""
    assert common_prefix(["x", "y"]) == ""


def test_mcnemar_is_the_binomial_test() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for gained, lost in ((0, 0), (5, 5), (9, 1), (200, 150), (3000, 2800)):
        expected = scipy.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar_p(gained, lost) == pytest.approx(expected, rel=1e-9)


def test_pairs_without_correlation_are_independent_samples() -> None:
    """36, 12, 24, 8 of 80: phi is 0, so it is the interval of two samples of 80."""
    found = paired_interval(36, 12, 24, 80)
    scores = [{"accuracy": n / 80, "interval95": list(wilson_interval(n, 80))} for n in (60, 48)]
    alone = gain(*scores)
    assert alone is not None
    assert found == pytest.approx(alone["interval95"])
    assert paired_interval(48, 4, 0, 80)[1] - paired_interval(48, 4, 0, 80)[0] < found[1] - found[0]


def test_pairs_agree_with_the_normal_interval_where_there_are_many() -> None:
    draw = random.Random(3)
    first = {str(n): draw.random() < 0.5 for n in range(3000)}
    second = {key: was or draw.random() < 0.1 for key, was in first.items()}
    found = paired(first, second)
    assert found is not None
    changes = [second[key] - first[key] for key in first]
    middle, error = statistics.fmean(changes), statistics.stdev(changes) / math.sqrt(3000)
    assert found["difference"] == pytest.approx(middle)
    assert found["interval95"] == pytest.approx([middle - Z * error, middle + Z * error], abs=2e-3)
    assert found["verdict"] == "up"
    assert paired({}, first) is None
    assert paired(first, first)["p"] == 1  # type: ignore[index]


def test_other_runs_stand_beside_this_one(tmp_path: Path) -> None:
    other = write_road(tmp_path, name="other")
    write_run(other)
    path = other.folder("70_evaluate") / "after/heldout-problems/predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_lines(path, [one | {"correct": True} for one in rows])
    road = write_road(tmp_path, report={"compare": ["other"]})
    write_run(road)
    run(road)
    data = read_json(road.folder("80_report") / "data.json")
    names = {one["benchmark"] for one in data["comparison"]}
    assert names == {"heldout-problems", "gsm8k"}
    held_out = next(o for o in data["comparison"] if o["benchmark"] == "heldout-problems")
    change = held_out["others"][0]["change"]
    assert (change["gained"], change["lost"], change["n"]) == (0, 1, 2)
    text = (road.folder("80_report") / "index.html").read_text()
    assert "Beside other runs" in text
    with pytest.raises(UserError, match="neither nobody nor"):
        find_runs(road, [Path("nobody")])
    assert compare_runs(road.root, {}) == []


def test_contamination_is_that_of_the_set_however_it_was_asked() -> None:
    assert [set_of(name) for name in ("gsm8k-0shot", "gsm8k-15shot", "gsm8k", "few-shot")] == [
        "gsm8k", "gsm8k", "gsm8k", "few-shot",
    ]  # fmt: skip
