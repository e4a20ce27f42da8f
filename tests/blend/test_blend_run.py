"""The blend room end to end: the table says what the order does, and bad input says so."""

import json
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from rich.console import Console
from written_indexes import EOD, TOKENIZER, counting_documents, ragged_lengths, write_index

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.run import dry_run, run
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader

MIX = """
general: {share: 4, of: {web: {share: 6, path: web}, code: {share: 4, path: code}}}
math: {share: 6, of: {webmath: {share: 3, path: webmath},
                      problems: {share: 7, path: problems, pack: whole, max_epochs: 2}}}
"""


@pytest.fixture
def road_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in {"web": 90, "code": 50, "webmath": 60, "problems": 120}.items():
        write_index(tmp_path / name, counting_documents(ragged_lengths(count, seed=count)))

    def make(blend, name="r"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"name: {name}\nblend:\n  " + blend.strip().replace("\n", "\n  ") + "\n")
        return Road.load(path)

    return make


def shared(tokens=30_000, **more):
    lines = [f"{key}: {value}" for key, value in more.items()]
    mix = MIX.strip().replace("\n", "\n  ")
    return "\n".join(["sequence_length: 64", f"tokens: {tokens}", *lines, "mix:\n  " + mix])


def test_shares_hold_at_every_prefix_and_caps_go_to_siblings(road_of):
    stage = run(road_of(shared()))
    reader = PlanReader(load_plan(stage.folder))
    cursors = [reader.cursor(n) for n in range(0, reader.num_samples + 1, 7)]
    table = dry_run(road_of(shared())).to_json()["stages"][0]
    (end,) = table["redistributed"]
    assert end["ended"] == ["problems"]
    first = {"web": "24/100", "code": "16/100", "webmath": "18/100", "problems": "42/100"}
    then = {"web": "24/100", "code": "16/100", "webmath": "60/100", "problems": "0"}
    for cursor in cursors:
        total = cursor["consumed_tokens"]
        early, late = min(total, end["from_token"]), max(0, total - end["from_token"])
        for name, entry in cursor["sources"].items():
            target = Fraction(first[name]) * early + Fraction(then[name]) * late
            assert abs(entry["tokens"] - target) < 64 + 1
    assert cursors[-1]["consumed_tokens"] > end["from_token"] + 5_000
    assert table["samples"] == reader.num_samples


def test_the_table_equals_a_count_over_the_batches(road_of):
    stage = run(road_of(shared()))
    plan = load_plan(stage.folder)
    reader = PlanReader(plan)
    batch = reader.batch(range(reader.num_samples))
    table = dry_run(road_of(shared()))
    (facts,) = table.to_json()["stages"]
    assert facts["tokens_asked"] == 30_000
    assert 30_000 <= facts["tokens"] < 30_000 + 64
    for number, row in enumerate(facts["sources"]):
        rows = batch.source_B == number
        index = plan.index(row["source"])
        assert row["samples"] == rows.sum()
        assert (
            row["tokens_available"] + plan.content.indexes[row["source"]].validation_tokens
            == index.num_tokens
        )
        tokens = batch.tokens_BS[rows]
        real = tokens != EOD
        assert row["tokens_used"] == real.sum()
        starts = set((np.cumsum(index.lengths_D) - index.lengths_D).tolist())
        begun = np.array([t for t in tokens[real].tolist() if t in starts])
        assert row["most_repeated"] == np.unique(begun, return_counts=True)[1].max()
        assert row["padding_tokens"] == rows.sum() * 64 - real.sum()
    text = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    text.print(table.render())
    shown = text.export_text()
    assert "math/problems" in shown
    assert "from token" in shown
    json.dumps(table.to_json())


def test_epochs_end_with_every_document_seen(road_of):
    blend = "sequence_length: 64\nmix: {web: {epochs: 2, path: web}, problems: {epochs: 3, path: \
problems, pack: whole}}"
    stage = run(road_of(blend))
    plan = load_plan(stage.folder)
    reader = PlanReader(plan)
    cursor = reader.cursor(reader.num_samples)
    assert [entry["epochs_done"] for entry in cursor["sources"].values()] == [2.0, 3.0]
    halfway = reader.cursor(reader.num_samples // 2)["sources"]
    assert abs(halfway["web"]["epochs_done"] - 1.0) < 0.1
    assert abs(halfway["problems"]["epochs_done"] - 1.5) < 0.1


def test_token_quotas_are_met_within_a_sample(road_of):
    blend = "sequence_length: 64\nmix: {web: {tokens: 5k, path: web}, code: {tokens: 700, path: \
code, align: 8}}"
    sources = dry_run(road_of(blend)).to_json()["stages"][0]["sources"]
    assert [0 <= row["tokens_used"] - asked < 64 for row, asked in
            zip(sources, (5000, 700), strict=True)] == [True, True]  # fmt: skip


def test_a_finished_plan_is_up_to_date_until_a_corpus_changes(road_of, tmp_path):
    stage = run(road_of(shared()))
    made = (stage.folder / "plan.json").stat().st_mtime_ns
    assert run(road_of(shared())).is_done()
    assert (stage.folder / "plan.json").stat().st_mtime_ns == made
    write_index(tmp_path / "web", counting_documents([9] * 90))
    run(road_of(shared()))
    assert (stage.folder / "plan.json").stat().st_mtime_ns != made


def test_a_plan_of_an_older_program_is_made_anew(road_of):
    folder = run(road_of(shared())).folder
    plan = (folder / "plan.json").read_bytes()
    (folder / "plan.json").write_bytes(plan.replace(b'"version": 3', b'"version": 1'))
    with pytest.raises(UserError, match="run blend again"):
        load_plan(folder)
    run(road_of(shared()))
    assert (folder / "plan.json").read_bytes() == plan


def test_a_dry_run_writes_nothing(road_of, tmp_path):
    before = sorted(p.name for p in tmp_path.rglob("*"))
    dry_run(road_of(shared()))
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted([*before, "r.yaml"])


def test_a_leaf_without_a_path_reads_this_roads_index(road_of, tmp_path):
    blend = "sequence_length: 64\ntokens: 2k\nmix: {a: {share: 1, source: web}, web: {share: 1}}"
    with pytest.raises(UserError, match="30_index is needed and is not finished"):
        run(road_of(blend))
    folder = tmp_path / "runs" / "r" / "30_index"
    write_index(folder / "web_text_document", counting_documents([20] * 50))
    (folder / "DONE").write_text("x\n")
    stage = run(road_of(blend))
    plan = load_plan(stage.folder)
    assert plan.content.indexes["a"].prefix == "../30_index/web_text_document"
    assert plan.tokenizer == TOKENIZER
    (tmp_path / "runs").rename(tmp_path / "moved")  # a run folder may be moved as a whole
    load_plan(tmp_path / "moved" / "r" / "40_blend")


@pytest.mark.parametrize(
    ("blend", "words"),
    [
        ("sequence_length: 8\ntokens: 9\nmix: {a: {share: 1, path: nowhere/x}}",
         r"mix\.a: the index nowhere/x is not there: no file nowhere/x\.idx"),
        ("sequence_length: 8\ntokens: 9\nmix: {web: {share: 1, path: web, loss: solution}}",
         r"loss: solution needs the role of every token.*web\.roles"),
        ("sequence_length: 8\ntokens: 90M\nmix: {web: {share: 1, path: web, max_epochs: 2}}",
         "asks for 90000000 tokens, and all its sources have ended"),
        ("sequence_length: 8\nstages:\n  - {name: a, mix: {web: {epochs: 2, path: web}}}\n"
         "  - {name: b, tokens: 10, mix: {web: {share: 1, path: web, max_epochs: 2}}}",
         "2, and the stages before have used 2 epochs"),
        ("sequence_length: 8\nstages:\n  - {name: a, mix: {web: {epochs: 2, path: web}}}\n"
         "  - {name: b, mix: {web: {epochs: 1, path: code}}}",
         "the source 'web' is web in another stage and code here"),
    ],
)  # fmt: skip
def test_a_mix_that_cannot_be_served_is_refused_and_leaves_nothing(road_of, tmp_path, blend, words):
    with pytest.raises(UserError, match=words):
        run(road_of(blend))
    assert not (tmp_path / "runs" / "r" / "40_blend").exists()


def test_two_tokenizers_in_one_plan_are_refused(road_of, tmp_path):
    write_index(tmp_path / "code", [[1, 2]] * 9, tokenizer=TOKENIZER | {"fingerprint": "0" * 64})
    with pytest.raises(UserError, match="'web' and 'code' were written by different tokenizers"):
        run(road_of(shared()))


def test_an_empty_corpus_is_refused_and_empty_documents_are_counted(road_of, tmp_path):
    write_index(tmp_path / "web", [[], []])
    with pytest.raises(UserError, match="holds no tokens"):
        run(road_of(shared()))
    write_index(tmp_path / "web", [[1, 2], [], [3, 4], [5]])
    (facts,) = dry_run(road_of(shared(500))).to_json()["stages"]
    web = facts["sources"][0]
    assert (web["empty_documents"], web["training_documents"]) == (1, 3)
    assert web["validation_documents"] == 1
    write_index(tmp_path / "web", [[1, 2], []])
    outcomes = [planned_or_why(road_of(shared(500, seed=s), f"r{s}")) for s in range(8)]
    assert set(outcomes) == {"planned", "none left"}  # the seed decides which is held out


def planned_or_why(road):
    try:
        run(road)
    except UserError as error:
        return "none left" if "none is left to train on" in str(error) else str(error)
    return "planned"


def test_planning_and_reading_load_no_torch(road_of, tmp_path):
    road_of(shared())
    program = (
        "import sys; from megatron_math.base.road import Road; from megatron_math.blend.run import "
        "run; from megatron_math.dataset.plan import load_plan; from megatron_math.dataset.reader "
        "import PlanReader; PlanReader(load_plan(run(Road.load('r.yaml')).folder)).batch([0, 1]); "
        "sys.exit(any(name == 'torch' or name.startswith('megatron.') for name in sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
    )


def test_the_order_is_written_down_forever(tmp_path, monkeypatch):
    """A golden prefix: an order that moves without a new plan version breaks every resumed run."""
    monkeypatch.chdir(tmp_path)
    write_index(tmp_path / "a", counting_documents([4, 6, 5, 3, 7, 8]))
    write_index(tmp_path / "b", counting_documents([5, 5, 6, 2, 9]))
    (tmp_path / "r.yaml").write_text(
        "name: r\nseed: 7\nblend: {sequence_length: 8, validation: 0.2, tokens: 60, mix: "
        "{a: {share: 3, path: a}, b: {share: 2, path: b, pack: whole}}}\n"
    )
    reader = PlanReader(load_plan(run(Road.load("r.yaml")).folder))
    batch = reader.batch(range(5))
    assert batch.source_B.tolist() == GOLDEN_SOURCES
    assert batch.tokens_BS.tolist() == GOLDEN_TOKENS


GOLDEN_SOURCES = [0, 1, 0, 0, 1]
GOLDEN_TOKENS = [
    [25, 26, 27, 28, 29, 30, 31, 32],
    [18, 19, 20, 21, 22, 23, 24, 25],
    [15, 16, 17, 10, 11, 12, 13, 14],
    [4, 5, 6, 7, 8, 9, 0, 1],
    [26, 10, 11, 12, 13, 14, 15, EOD],
]
