"""curate with influence on a road: warm-up by train, shards, kills, what stays and why."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from planted import mean_loss
from test_lora import tensors_in
from train_roads import prepared  # noqa: F401

from megatron_math.base.errors import UserError
from megatron_math.base.records import read_records
from megatron_math.base.road import Road
from megatron_math.base.shard import Shard
from megatron_math.cli import main
from megatron_math.curate.config import CurateConfig
from megatron_math.curate.influence import run as room
from megatron_math.curate.influence.gradients import TextGradients
from megatron_math.curate.influence.texts import Text, read_texts
from megatron_math.curate.influence.warm_up import opened, references
from megatron_math.curate.run import run, run_shard
from megatron_math.device.start import PASSED_ON
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import is_adapter
from megatron_math.tokenizer import load_tokenizer

NUM_PROBLEMS, NUM_PLAIN, NUM_TARGETS = 60, 40, 5
WARM_UP = [
    "train.lora={rank: 4, alpha: 16}", "train.validation_samples=0", "train.schedule=cosine",
    "checkpoint.interval=11", "checkpoint.keep=2",
]  # fmt: skip


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A folder with runs/road, trained with adapters to iterations 11 and 22, and select.yaml."""
    from megatron_math.train.run import read_order, train_rank

    folder = tmp_path_factory.mktemp("influence")
    shutil.copytree(prepared / "runs", folder / "runs", symlinks=True)
    warm_up = Road.load(prepared / "road.yaml", WARM_UP, folder / "runs")
    handlers = {number: signal.getsignal(number) for number in PASSED_ON}
    train_rank(warm_up, read_order(warm_up))
    for number, handler in handlers.items():
        signal.signal(number, handler)
    problems = list(read_records(warm_up.folder("10_synthesize") / "problems.jsonl"))
    plain = list(read_records(prepared / "general.jsonl"))
    rows = [record.to_json() for record in problems[: NUM_PROBLEMS + NUM_TARGETS]]
    texts = [{"id": f"g{n}", "text": record.text} for n, record in enumerate(plain[:NUM_PLAIN])]
    prose = [{"text": record.text} for record in plain[NUM_PLAIN : NUM_PLAIN + 16]]
    mixed = [*rows[:NUM_PROBLEMS], rows[3], *texts]  # one of them twice
    select = {
        "name": "select",
        "seed": 5,
        "curate": {
            "sources": {
                "mixed": {"path": write_rows(folder / "mixed.jsonl", mixed)},
                "other": {"path": write_rows(folder / "other.jsonl", [{"id": "o", "text": "Hm."}])},
            },
            "influence": {
                "run": "../road",
                "targets": {
                    "problems": {"path": write_rows(folder / "t.jsonl", rows[NUM_PROBLEMS:])},
                    "prose": {"path": write_rows(folder / "p.jsonl", prose)},
                },
                "keep": {"mixed": 0.3},
                "dimension": 512,
                "loss": "solution",
                "max_tokens": 64,
                "block_records": 16,
            },
        },
    }
    (folder / "select.yaml").write_text(yaml.safe_dump(select))
    return folder


@pytest.fixture
def road(world: Path, tmp_path: Path):
    """road(*overrides) -> the selecting road in a runs folder of its own, beside the warm-up."""

    def make(*overrides: str, name: str = "runs") -> Road:
        runs = tmp_path / name
        runs.mkdir(exist_ok=True)
        if not (runs / "road").exists():
            (runs / "road").symlink_to(world / "runs" / "road")
        return Road.load(world / "select.yaml", overrides, runs)

    return make


@pytest.fixture(scope="module")
def chosen(world: Path) -> Path:
    """20_curate of one run in one process."""
    return run(Road.load(world / "select.yaml", [], world / "runs")).folder


def test_nothing_vanishes_and_the_rest_says_why(chosen: Path) -> None:
    kept, drops = read_rows(chosen / "mixed.jsonl"), read_rows(chosen / "drops" / "mixed.jsonl")
    assert len(kept) == 30
    assert len(kept) + len(drops) == NUM_PROBLEMS + 1 + NUM_PLAIN
    reasons = [row["reason"] for row in drops]
    assert (reasons.count("duplicate"), reasons.count("influence")) == (1, 70)
    scored = read_rows(chosen / "influence" / "mixed.jsonl")
    assert [row["id"] for row in scored if row["kept"]] == [row["id"] for row in kept]
    assert sorted(row["rank"] for row in scored) == list(range(1, 101))
    least = min(row["score"] for row in scored if row["kept"])
    assert all(row["score"] <= least for row in drops if row["reason"] == "influence")
    for row in scored:
        assert row["score"] == max(row["scores"].values()) == row["scores"][row["target"]]
    stats = json.loads((chosen / "stats.json").read_text())
    assert (stats["read"], stats["kept"], stats["dropped"]) == (102, 31, 71)
    assert stats["sources"]["mixed"]["reasons"] == {"duplicate": 1, "influence": 70}
    assert read_rows(chosen / "other.jsonl") == [{"id": "o", "text": "Hm."}]
    assert not (chosen / "influence" / "other.jsonl").exists()


def test_subtasks_tell_kinds_apart(chosen: Path) -> None:
    """Adam's momentum is in every step, so that all records lean towards one subtask; what is
    higher with a record's own kind is the difference of two."""
    scored = read_rows(chosen / "influence" / "mixed.jsonl")
    more = np.array([row["scores"]["problems"] - row["scores"]["prose"] for row in scored])
    share = (more[:NUM_PROBLEMS, None] > more[NUM_PROBLEMS:]).mean()
    print(f"problems lean more to problems than prose does: {share:.3f} of pairs")
    assert share > 0.8


def rows_by_hand(
    model: GPT, texts: list[Text], tensors: dict[str, torch.Tensor] | None, steps: int
) -> np.ndarray:
    """Unit rows of each text alone; with tensors of a checkpoint, of Adam's next step."""
    factors = {name: p for name, p in model.named_parameters() if is_adapter(name)}
    found = []
    for text in texts:
        for factor in factors.values():
            factor.requires_grad_(True)
        gradients = torch.autograd.grad(mean_loss(model, text), list(factors.values()))
        parts = []
        for name, gradient in zip(factors, gradients, strict=True):
            part = gradient
            if tensors is not None:
                layer = name.split(".")[2]  # decoder.layers.<layer>.<map>: stacked on disk
                key = name.replace(f"layers.{layer}.", "layers.")
                m, v = (
                    tensors[f"optimizer.state.{kind}.{key}"][int(layer)].view_as(gradient)
                    for kind in ("exp_avg", "exp_avg_sq")
                )
                m = (0.9 * m + 0.1 * gradient) / (1 - 0.9 ** (steps + 1))
                v = (0.95 * v + 0.05 * gradient**2) / (1 - 0.95 ** (steps + 1))
                part = m / (v.sqrt() + 1e-8)
            parts.append(part.flatten())
        row = torch.cat(parts).double()
        found.append((row / row.norm()).numpy())
    return np.stack(found)


def test_scores_are_those_of_the_formula(chosen: Path, world: Path, road) -> None:
    """Each text alone by autograd, moments read by torch alone, the whole sum by hand."""
    warm_up = world / "runs" / "road" / "50_train"
    rates = {r["iteration"]: r["learning-rate"] for r in read_rows(warm_up / "metrics.jsonl")}
    means = [np.mean([rates[n] for n in range(a, a + 11)]) for a in (1, 12)]
    records = list(read_records(chosen / "mixed.jsonl"))[:8]
    targets = list(read_records(world / "t.jsonl"))
    total = np.zeros(len(records))
    for number, reference in enumerate(references(warm_up, None)):
        assert reference.weight == pytest.approx(means[number] / sum(means))
        tensors = tensors_in(reference.checkpoint.folder)
        tokenizer = load_tokenizer(reference.checkpoint.folder / "tokenizer")
        texts, target_texts = (
            read_texts(some, tokenizer, max_tokens=64, loss="solution")
            for some in (records, targets)
        )
        with opened(reference, max_tokens=64, dtype="fp32") as (model, adam):
            assert adam.num_steps == reference.iteration
            steps = rows_by_hand(model, texts, tensors, reference.iteration)
            plain = rows_by_hand(model, target_texts, None, reference.iteration)
        total += reference.weight * (steps @ plain.T).mean(1)
    whole = road("curate.influence.dimension=null", name="whole")
    scored = {row["id"]: row for row in read_rows(run(whole).folder / "influence/mixed.jsonl")}
    ours = np.array([scored[record.id]["scores"]["problems"] for record in records])
    print(f"largest difference: {np.abs(ours - total).max():.1e}, scores {total.round(3)}")
    assert np.abs(ours - total).max() < 1e-4


def test_half_precision_chooses_about_the_same(chosen: Path, road) -> None:
    half = run(road("curate.influence.dtype=bf16")).folder
    one, other = (
        [row["score"] for row in read_rows(folder / "influence" / "mixed.jsonl")]
        for folder in (chosen, half)
    )
    print(f"largest difference: {np.abs(np.subtract(one, other)).max():.1e}")
    assert np.corrcoef(one, other)[0, 1] > 0.99


def test_shards_give_the_same_bytes(chosen: Path, road, monkeypatch) -> None:
    asked = road()
    for index in (2, 0, 1):
        run_shard(asked, Shard(index, 3))
    assert not (asked.folder("20_curate") / "DONE").exists()
    with monkeypatch.context() as patch:  # nothing is left to compute
        patch.setattr(TextGradients, "rows", None)
        folder = run(asked).folder
    files = {
        path.relative_to(chosen): path.read_bytes()
        for path in chosen.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert sum(path.suffix == ".npy" for path in files) == 2 * (7 + 1 + 1)
    for path, content in files.items():
        assert (folder / path).read_bytes() == content, path


def test_a_kill_costs_one_block(chosen: Path, road, monkeypatch) -> None:
    asked, calls = road(), []

    def counted(self, texts, adam, real=TextGradients.rows):
        calls.append(len(texts))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, texts, adam)

    monkeypatch.setattr(TextGradients, "rows", counted)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    folder = run(asked).folder
    assert len(calls) == 18 + 1
    assert (folder / "mixed.jsonl").read_bytes() == (chosen / "mixed.jsonl").read_bytes()


def test_another_share_or_target_computes_no_gradient_twice(world: Path, road, monkeypatch) -> None:
    first, calls = road(), []

    def counted(self, texts, adam, real=TextGradients.rows):
        calls.append(len(texts))
        return real(self, texts, adam)

    monkeypatch.setattr(TextGradients, "rows", counted)
    folder = run(first).folder
    assert run(first).was_done
    calls.clear()
    run(road("curate.influence.keep=7"))
    assert len(read_rows(folder / "mixed.jsonl")) == 7
    assert calls == [1, 1]  # `other` is scored now, too
    calls.clear()
    run(road("curate.influence.targets={new: {path: " + str(world / "t.jsonl") + "}}"))
    assert calls == [5, 5]
    names = {path.name for path in (folder / "influence" / "gradients").glob("*")}
    assert names == {"source_mixed", "target_new"}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("run=../nowhere", "nowhere/50_train is needed and is not finished"),
        ("checkpoints=[11, 15]", "no checkpoint of iteration 15; it has 11, 22"),
        ("keep={mixd: 3}", "influence.keep names mixd"),
        ("keep=1.5", "keep"),
        ("keep=0", "keep"),
        ("dimension=1000", "power of two"),
        ("targets={}", "targets"),
        ("targets={none: {path: WORLD/none.jsonl}}", "targets.none: there are no records"),
    ],
)
def test_what_cannot_be_is_refused(road, world: Path, override: str, complaint: str) -> None:
    (world / "none.jsonl").touch()
    asked = road(f"curate.influence.{override.replace('WORLD', str(world))}")
    with pytest.raises(UserError, match=complaint):
        run(asked)
    assert not asked.folder("20_curate").exists(), "hours of other work before the fault is said"


def test_a_shard_that_cannot_be(world: Path) -> None:
    assert main(["curate", str(world / "select.yaml"), "--shard", "2/2"]) == 2


def test_a_road_without_influence_keeps_its_fingerprint() -> None:
    config = CurateConfig.model_validate({"sources": {"a": {"path": "a.jsonl"}}})
    assert "influence" not in config.identity()


def test_ranks_of_equal_scores_follow_the_order() -> None:
    assert room.ranks(np.array([[1, 0], [0, 2], [1, 1], [2, 0]])).tolist() == [2, 0, 3, 1]
