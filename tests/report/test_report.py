"""The page says what the files say: every number, nothing invented, nothing from the network."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from read_page import Page, check_alone, check_drawings, leaves
from run_folder import ITERATIONS, write_lines, write_road, write_run

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.base.road import Road
from megatron_math.report.run import run
from megatron_math.report.training import read_training


@pytest.fixture
def road(tmp_path: Path) -> Road:
    road = write_road(tmp_path)
    write_run(road)
    return road


def page_of(road: Road) -> Path:
    return road.folder("80_report") / "index.html"


def data_of(road: Road) -> dict[str, Any]:
    data: dict[str, Any] = read_json(road.folder("80_report") / "data.json")
    return data


def test_every_number_of_data_json_is_on_the_page(road: Road) -> None:
    run(road)
    page, data = Page.read(page_of(road)), data_of(road)
    shown = dict(page.numbers)
    configuration = data.pop("configuration")
    configuration["model"] = data["model"].pop("architecture")
    for name, content in configuration.items():
        assert yaml.safe_load(page.configuration[name]) == content, name
    absent = [number for number in leaves(data) if number not in shown]
    assert not absent
    numbers = set(leaves(data))
    assert not [number for number in shown if number not in numbers], "not in data.json"
    assert len(shown) > 400


def test_numbers_are_written_as_what_they_are(road: Road) -> None:
    run(road)
    for value, written in Page.read(page_of(road)).numbers:
        plain = written.replace("\u202f", "").replace("−", "-")
        match = re.fullmatch(r"([+-]?[\d.]+(?:e[+-]\d+)?)([%kMBT]?)", plain)
        if match is None:
            assert re.fullmatch(r"[\d.]+(d|h|min|s)( \d+(h|min|s))?", plain), written
            continue
        factor = {"": 1, "%": 0.01, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[match.group(2)]
        read = float(match.group(1)) * factor
        close = [read, read / 100]  # points and bare percentages leave the sign of percent out
        digits = len(match.group(1).partition(".")[2].partition("e")[0])
        step = max(abs(value) * 0.01, factor * 10.0**-digits)
        assert min(abs(value - c) for c in close) <= step, (value, written)


def test_mfu_names_its_peak_and_memory_is_the_fullest(road: Road) -> None:
    run(road)
    page = (road.folder("80_report") / "index.html").read_text()
    text = " ".join(re.sub("<[^>]+>", "", page).replace("\u202f", " ").split())
    assert "MFU, median: 41.2 % of the dense bf16 peak, attention counted half." in text
    assert "The fullest process took 61.00 GiB." in text
    rows = road.folder("50_train") / "metrics.jsonl"
    plain = [json.loads(line) for line in rows.read_text().splitlines()]
    new = ("mfu", "mfu_peak", "peak_reserved_bytes")
    rows.write_text("".join(
        json.dumps({k: v for k, v in row.items() if k not in new}) + "\n" for row in plain
    ))  # fmt: skip
    assert read_training(rows.parent).keys() >= {"median_mfu"}
    assert "peak_memory_gib" not in read_training(rows.parent)


def test_headline_says_what_was_gained(road: Road) -> None:
    run(road)
    text = Page.read(page_of(road)).text
    assert (
        "Of 1 500 problems in heldout-problems, 1.0 % were solved before and 22.9 % after" in text
    )
    assert "A clear gain: +21.9 points, 95 % interval +19.8 to +24.2" in text


def test_a_missing_score_is_missing_and_not_zero(road: Road) -> None:
    """gsm8k was scored after only, and nobody wrote how many answers had nothing to read."""
    run(road)
    gsm8k = data_of(road)["scores"][1]
    assert gsm8k["rows"][0]["before"] is None
    assert gsm8k["rows"][0]["gain"] is None
    part = Page.read(page_of(road)).text.split("What was kept")[0].rsplit("gsm8k", 1)[1]
    assert re.search(r"before ?missing.*after ?1\.9 %.*change, points ?missing", part), part
    assert "0.0 %" not in part


def test_no_score_at_all_says_why(road: Road) -> None:
    evaluated = road.folder("70_evaluate")
    for path in (evaluated / "before").rglob("scores.json"):
        path.unlink()
    write_json(evaluated / "before" / "missing.json", {"missing": "the base is fresh weights"})
    run(road)
    text = Page.read(page_of(road)).text
    assert "an unknown share was solved before (missing) and 22.9 % after" in text
    assert "No scores before: the base is fresh weights." in text
    assert "clear gain" not in text


def test_nothing_comes_from_elsewhere(road: Road) -> None:
    run(road)
    check_alone(page_of(road))


def test_one_model_alone_is_not_compared_with_a_missing_one(tmp_path: Path) -> None:
    asked = {"benchmarks": ["heldout-problems"], "who": ["other"]}
    road = write_road(tmp_path, evaluate=asked)
    write_run(road)
    evaluated = road.folder("70_evaluate")
    shutil.rmtree(evaluated / "before")
    (evaluated / "after").rename(evaluated / "other")
    (evaluated / "retention.json").unlink()
    run(road)
    text = Page.read(page_of(road)).text
    assert "Of 1 500 problems in heldout-problems, 22.9 % were solved." in text
    part = text.split("Share of problems answered right")[1].split("Answers to read")[0]
    assert "missing" not in part.replace("missing after", "")  # how many had no answer
    assert "before" not in part


def test_what_was_forgotten_is_told(road: Road) -> None:
    run(road)
    text = Page.read(page_of(road)).text
    part = text.split("What was kept, what was forgotten")[1].split("Answers to read")[0]
    assert re.search(r"wikitext ?3.412 ?3.625 ?\+0.213 \+0.171 to \+0.255 ?377 ?401 ?402", part)
    assert re.search(r"empty ?missing ?missing", part)
    assert re.search(r"heldout-problems ?0 of 2 ?1 of 2 ?\+50.0", part)
    assert re.search(r"gsm8k ?missing ?25 of 1 319", part)
    (road.folder("70_evaluate") / "retention.json").unlink()
    (road.folder("80_report") / "DONE").unlink()
    run(road)
    assert "what was forgotten" not in Page.read(page_of(road)).text


def test_every_drawing_is_told_in_words(road: Road) -> None:
    run(road)
    check_drawings(page_of(road))


def test_curves_pass_through_the_losses(road: Road) -> None:
    """The first held-out dot stands where the axis puts its loss, the last one lower."""
    run(road)
    html = (road.folder("80_report") / "index.html").read_text(encoding="utf-8")
    curve = next(c for c in data_of(road)["training"]["curves"] if c["source"] == "problems")
    figure = html.split("<strong>problems</strong>")[1].split("</figure>")[0]
    dots = re.search(r'class="dots accent" d="([^"]+)"', figure)
    assert dots
    places = [tuple(map(float, p.split())) for p in re.findall(r"M([\d. ]+)h0", dots.group(1))]
    ticks = re.findall(r'tick y" style="top:([\d.]+)%">([\d.]+)<', figure)
    (top_a, loss_a), (top_b, loss_b) = [(float(t), float(v)) for t, v in ticks[:2]]
    slope = (top_b - top_a) / (loss_b - loss_a)
    for (_, top), point in zip(places, curve["validation"], strict=True):
        assert top == pytest.approx(top_a + slope * (point["loss"] - loss_a), abs=0.05)
    assert places[0][0] == 0
    assert places[-1][0] == pytest.approx(100)


def test_second_run_does_nothing_and_a_changed_stage_makes_it_stale(road: Road) -> None:
    assert not run(road).was_done
    page = road.folder("80_report") / "index.html"
    first = page.read_bytes()
    assert run(road).was_done
    done = road.folder("50_train") / "DONE"
    done.write_text("0" * 64 + "\n")
    assert not run(road).was_done
    done.unlink()
    assert not run(road).was_done
    assert "Not finished: 50_train." in Page.read(page_of(road)).text
    assert page.read_bytes() != first


def test_a_stage_made_from_an_older_one_is_named(road: Road) -> None:
    run(road)
    assert "was made from another" not in Page.read(page_of(road)).text
    manifest = road.folder("40_blend") / "manifest.json"
    write_json(manifest, read_json(manifest) | {"fingerprint": "f" * 64})
    (road.folder("40_blend") / "DONE").write_text("f" * 64 + "\n")
    run(road)
    assert "50_train was made from another 40_blend than the one" in Page.read(page_of(road)).text


def test_stages_not_on_the_road_are_left_out(tmp_path: Path) -> None:
    road = write_road(tmp_path, synthesize=None, curate=None, evaluate=None)
    write_run(road)
    run(road)
    page = Page.read(page_of(road))
    assert "Held-out loss from 5.347 to 2.789" in page.text
    assert "missing" not in page.text
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert "loss" in anchors
    assert "scores" not in anchors
    assert data_of(road)["synthesis"] is None


def test_no_problem_of_a_level_is_a_count_and_no_table_is_missing(road: Road) -> None:
    """A level that no held-out problem has counts 0; a table that nobody wrote is missing."""
    path = road.folder("10_synthesize") / "stats.json"
    stats = read_json(path)
    write_json(path, stats | {"heldout": {"problems": 0, "by_level": {}}})
    run(road)
    levels = data_of(road)["synthesis"]["levels"]
    assert [row["heldout"] for row in levels] == [0, 0, 0]
    write_json(path, stats | {"heldout": {"problems": 0}})
    (road.folder("80_report") / "DONE").unlink()
    run(road)
    levels = data_of(road)["synthesis"]["levels"]
    assert [row["heldout"] for row in levels] == [None, None, None]


def test_restarts_and_what_they_cost(road: Road) -> None:
    run(road)
    text = Page.read(page_of(road)).text
    restarts = data_of(road)["restarts"]
    steps = restarts["spent_seconds"]["steps"]
    assert restarts["wall_seconds"] == 342.25
    assert restarts["effective_share"] == steps / 342.25
    assert restarts["spent_seconds"]["down"] == 60
    assert f"{100 * steps / 342.25:.1f} % of 5 min 42 s" in text
    assert "Restarts: 1; steps that they made the run repeat: 50." in text
    assert [one["cause"] for one in restarts["launches"]] == ["killed", "done"]
    assert [one["reached"] for one in restarts["launches"]] == [250, ITERATIONS]


def test_a_run_of_before_launches_were_written_has_no_such_section(road: Road) -> None:
    (road.folder("50_train") / "launches.jsonl").unlink()
    run(road)
    assert data_of(road)["restarts"] is None
    assert "effective training time" not in Page.read(page_of(road)).text


def test_a_road_without_a_finished_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished stage to report on"):
        run(write_road(tmp_path))
    assert not (tmp_path / "runs").exists()


def test_contradicting_files_are_refused_before_anything_is_written(road: Road) -> None:
    path = road.folder("70_evaluate") / "after" / "gsm8k" / "scores.json"
    write_json(path, read_json(path) | {"accuracy": 0.5})
    with pytest.raises(UserError, match="contradicts itself: 25 of 1319 right is not"):
        run(road)
    assert not road.folder("80_report").exists()


def test_validation_of_another_run_is_refused(road: Road) -> None:
    row = {
        "iteration": 9999,
        "consumed_samples": 1,
        "loss": {"general": 1.0},
        "tokens": {"general": 8},
    }
    write_lines(road.folder("50_train") / "validation.jsonl", [row])
    with pytest.raises(UserError, match="has iteration 9999"):
        run(road)


def test_a_loss_that_is_no_number_is_counted(road: Road) -> None:
    path = road.folder("50_train") / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[5] = re.sub(r'"lm loss": [\d.]+', '"lm loss": NaN', lines[5])
    path.write_text("\n".join(lines) + "\n")
    run(road)
    assert "1 steps had a loss that is not a number" in Page.read(page_of(road)).text
    assert data_of(road)["training"]["not_finite"] == 1


def test_text_from_files_cannot_become_markup(road: Road) -> None:
    path = road.folder("70_evaluate") / "after" / "heldout-problems" / "predictions.jsonl"
    path.write_text(path.read_text().replace("7 + 8 = 15.", "<script>alert(1)</script>"))
    run(road)
    page = Page.read(page_of(road))
    assert [tag for tag, _ in page.tags].count("script") == 1  # the page's own
    assert "<script>alert(1)</script>" in page.text


def test_models_asked_differently_are_not_compared_in_silence(road: Road) -> None:
    path = road.folder("70_evaluate") / "before" / "heldout-problems" / "scores.json"
    scores = read_json(path)
    write_json(path, scores | {"protocol": scores["protocol"] | {"shots": 4}})
    run(road)
    assert "not asked in the same way: shots differ" in Page.read(page_of(road)).text


def test_report_needs_no_torch() -> None:
    code = (
        "import sys; import megatron_math.report.run, megatron_math.report.page; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
