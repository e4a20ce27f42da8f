"""An index, a plan and a batch are shown as training sees them, and damage is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from written_indexes import write_index

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.inspect.app import app
from megatron_math.inspect.batch import inspect_batch
from megatron_math.inspect.index import inspect_index
from megatron_math.inspect.plan import inspect_plan
from megatron_math.tokenizer import load_tokenizer

KINDS = ["HuggingFaceTokenizer", "SentencePieceTokenizer", "TikTokenizer"]
TEXTS = ["Seven pears and  two plums.", "Then x = 12.", "A third text."]


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture(params=KINDS)
def described(request: pytest.FixtureRequest, tokenizer_files: dict, tmp_path: Path) -> Any:
    """A self-describing index of TEXTS, and what each document's ids ought to be."""
    tokenizer = load_tokenizer(tokenizer_files[request.param], request.param)
    tokenizer.save(tmp_path / "tokenizer")
    documents = [[*tokenizer.encode(text), tokenizer.eod_id] for text in TEXTS]
    prefix = tmp_path / "few_text_document"
    write_index(prefix, documents, tokenizer=tokenizer.describe())
    return prefix, documents


def test_a_self_describing_index_tells_its_tokens(described: Any) -> None:
    prefix, documents = described
    for number, (text, ids) in enumerate(zip(TEXTS, documents, strict=True)):
        facts = inspect_index(prefix, document=number)
        (shown,) = facts["shown"]
        assert shown["ids"] == ids
        assert shown["text"] == text
        assert "".join(shown["pieces"]) == text + "⟨eod⟩"
        assert shown["ends_with_eod"] is True
    assert facts["documents"] == len(TEXTS)
    assert facts["tokens"] == sum(map(len, documents))
    assert facts["faults"] == []


def test_the_suffix_may_stand_behind_the_prefix(described: Any) -> None:
    prefix, _ = described
    for suffix in (".bin", ".idx"):
        assert inspect_index(Path(f"{prefix}{suffix}"))["prefix"] == str(prefix)


def test_another_tokenizer_is_refused(described: Any, tokenizer_files: dict) -> None:
    prefix, _ = described
    mine = inspect_index(prefix)["tokenizer"]["kind"]
    other = tokenizer_files[next(kind for kind in KINDS if kind != mine)]
    with pytest.raises(UserError, match="is not the one that wrote these tokens"):
        inspect_index(prefix, tokenizer=other)


def test_a_neighbour_that_is_not_the_tokenizer_gives_no_text(
    described: Any, tokenizer_files: dict
) -> None:
    """Wrong text would be worse than none."""
    prefix, _ = described
    mine = inspect_index(prefix)["tokenizer"]["kind"]
    for path in (prefix.parent / "tokenizer").iterdir():
        path.unlink()
    other = next(kind for kind in KINDS if kind != mine)
    load_tokenizer(tokenizer_files[other], other).save(prefix.parent / "tokenizer")
    facts = inspect_index(prefix)
    assert facts["tokenizer_at"] is None
    assert facts["shown"][0]["text"] is None


def test_ids_beyond_the_tokenizer_are_shown_and_not_hidden(tmp_path: Path, tokenizer_files) -> None:
    tokenizer = load_tokenizer(tokenizer_files["HuggingFaceTokenizer"])
    tokenizer.save(tmp_path / "tokenizer")
    ids = [*tokenizer.encode("x"), 60_000]
    prefix = write_index(tmp_path / "odd", [ids], tokenizer=tokenizer.describe())
    assert inspect_index(prefix)["shown"][0]["text"] == "x⟨60000⟩"


def test_planted_damage_in_an_index_is_named(described: Any) -> None:
    prefix, _ = described
    path = prefix.with_name(prefix.name + ".bin")
    flip_byte(path, 3)
    assert inspect_index(prefix)["faults"] == []  # the quick look reads no token
    (fault,) = inspect_index(prefix, verify=True)["faults"]
    assert "few_text_document.bin does not match" in fault
    flip_byte(prefix.with_name(prefix.name + ".idx"), 34 + 12 + 8)  # a document's first byte
    assert "the one before it ends at byte" in inspect_index(prefix)["faults"][0]


def test_a_document_outside_is_refused(described: Any) -> None:
    with pytest.raises(UserError, match="document 3 of .*: it has 3, numbered from 0"):
        inspect_index(described[0], document=3)


def test_batch_is_what_training_is_fed(road: Road) -> None:
    """Every step of the run, token by token and loss by loss, against the trainer's own feed."""
    import torch

    from megatron_math.dataset.plan import load_plan
    from megatron_math.train.config import TrainConfig
    from megatron_math.train.feed import Feed

    feed = Feed(
        load_plan(road.folder("40_blend")),
        TrainConfig(global_batch_size=6, micro_batch_size=6, lr=1e-3),
        data_rank=0,
        data_size=1,
        torch_device=torch.device("cpu"),
    )
    assert feed.num_iterations > 3
    for iteration in range(1, feed.num_iterations + 1):
        facts = inspect_batch(road, iteration=iteration, num_samples=6)
        (fed,) = feed.microbatches(iteration - 1)
        for row, sample in enumerate(facts["samples"]):
            fed_ids = [*fed.tokens_BP[row].tolist(), int(fed.labels_BP[row, -1])]
            fed_loss = [False, *(fed.loss_mask_BP[row] > 0).tolist()]
            parts = [part for document in sample["documents"] for part in document["parts"]]
            ids = [identity for part in parts for identity in part["ids"]]
            loss = [part["loss"] for part in parts for _ in part["ids"]]
            assert ids == fed_ids[: len(ids)]
            assert loss == fed_loss[: len(loss)]
            assert not any(fed_loss[len(loss) :])
            assert sample["loss_tokens"] == sum(fed_loss)
            assert sample["source"] == feed.sources[int(fed.source_B[row])]
        missing = 6 - facts["samples_in_step"]
        num_samples = feed.consumed_samples(feed.num_iterations)
        assert missing == (-num_samples % 6 if iteration == feed.num_iterations else 0)


def test_batch_tells_lineage_and_loss_as_text(road: Road) -> None:
    samples = [s for i in (1, 2, 3) for s in inspect_batch(road, iteration=i)["samples"]]
    problems = [s for s in samples if s["source"] == "problems"]
    assert problems
    for sample in problems:
        for document in sample["documents"]:
            number = int(document["id"].removeprefix("p-"))
            prompt, solution = document["parts"]
            assert (prompt["loss"], solution["loss"]) == (False, True)
            # The space between them belongs to the first token that has a byte of the solution.
            assert prompt["text"].rstrip() == f"⟨bos⟩Question: What is {number} + 4?\nSolution:"
            told = f"{number} + 4 = {number + 4}. The answer is {number + 4}.⟨eod⟩"
            assert solution["text"].lstrip() == told
            assert (prompt["text"] + solution["text"]).endswith(f"Solution: {told}")
            origin = document["origin"]
            assert (Path(origin["file"]).name, origin["line"]) == ("problems.jsonl", number + 1)
            assert origin["retokenized_equal"], origin


def test_a_row_that_changed_or_went_is_named(road: Road) -> None:
    source = road.root.parent.parent / "problems.jsonl"
    lines = source.read_text().splitlines()
    changed = [line.replace("What", "Which") for line in lines[:30]]
    source.write_text("\n".join(changed) + "\n")  # 30 of 60 rows: others, or gone
    samples = [s for i in (1, 2, 3) for s in inspect_batch(road, iteration=i)["samples"]]
    seen = set()
    for sample in samples:
        if sample["source"] == "problems":
            for document in sample["documents"]:
                origin = document["origin"]
                seen.add(origin["line"] <= 30)
                assert origin["retokenized_equal"] is (False if origin["line"] <= 30 else None)
                assert ("not the same" if origin["line"] <= 30 else "no such line") in origin["why"]
    assert seen == {True, False}


def test_a_step_outside_the_plan_is_refused(road: Road) -> None:
    for iteration in (0, 9):
        with pytest.raises(UserError, match="this plan has the iterations 1 to 8"):
            inspect_batch(road, iteration=iteration)


def test_plan_shows_the_order_and_refuses_a_changed_index(road: Road) -> None:
    facts = inspect_plan(road.folder("40_blend"))
    (stage,) = facts["stages"]
    assert sum(source["share_realised"] for source in stage["sources"]) == pytest.approx(1)
    order = np.load(road.folder("40_blend") / "order_train.npy")
    names = [source["source"] for source in stage["sources"]]
    assert stage["first_samples"] == [names[number] for number in order[:32]]
    flip_byte(road.folder("30_index") / "general_text_document.bin", 10)
    with pytest.raises(UserError, match="has changed since the plan"):
        inspect_plan(road.folder("40_blend"))


def test_every_command_prints_facts_and_text(road: Road) -> None:
    runner = CliRunner()
    prefix = str(road.folder("30_index") / "problems_text_document")
    batch = ["batch", str(road.yaml_path), "--runs", str(road.runs), "--iteration", "2"]
    for arguments, key, words in (
        (["index", prefix], "documents", "documents 60"),
        (["index", prefix, "--document", "5"], "documents", "solution"),
        (["plan", str(road.folder("40_blend"))], "stages", "first samples:"),
        (batch, "samples", "its ids are the same again"),
    ):
        told = runner.invoke(app, [*arguments, "--json"])
        assert told.exit_code == 0, told.output
        assert key in json.loads(told.stdout)
        told = runner.invoke(app, arguments)
        assert words in " ".join(told.stdout.split()), told.stdout


def test_door_in_tools_prints_the_index_and_says_what_is_missing(
    road: Road, repository: Path
) -> None:
    command = [sys.executable, str(repository / "tools" / "inspect_dataset.py")]
    prefix = str(road.folder("30_index") / "problems_text_document")
    told = subprocess.run([*command, prefix, "--json"], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == inspect_index(Path(prefix))
    told = subprocess.run([*command, prefix + "x"], capture_output=True, text=True)
    assert told.returncode == 2
    assert "is not there: no file" in told.stderr
    assert "Traceback" not in told.stderr


def test_looking_at_data_needs_no_torch() -> None:
    rooms = "index, megatron_math.inspect.plan, megatron_math.inspect.batch"
    code = (
        f"import sys; import megatron_math.inspect.app, megatron_math.inspect.{rooms}, "
        "megatron_math.inspect.checkpoint; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
