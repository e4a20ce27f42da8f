"""Losses and sets before and after: the same documents, in pairs; only what is missing is read."""

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.base.road import Road
from megatron_math.engine.scripted import ScriptedEngine
from megatron_math.evaluate import run as room
from megatron_math.evaluate.retention import measure_retention, sample_documents
from megatron_math.evaluate.retention_config import HeldOutText, RetentionConfig

NUM_DOCUMENTS = 40


class Reads:
    """Losses that grow with the text; the later model forgot `forgot`, and short texts are None."""

    opened: list[str]

    def __init__(self) -> None:
        self.opened = []

    def open(self, folder: Path) -> "Reads":
        self.opened.append(folder.name)
        self.forgot = 0.5 if folder.name == "after" else 0.0
        return self

    def losses(self, texts: Sequence[str]) -> list[float | None]:
        return [
            None if len(text) < 5 else 2 + number % 3 + self.forgot * (1 + number % 2)
            for number, text in enumerate(texts)
        ]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "general.jsonl"
    rows = [{"text": f"A text of number {n}." if n else "Hm."} for n in range(NUM_DOCUMENTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def models(tmp_path: Path) -> dict[str, tuple[str, Path]]:
    return {who: (f"print of {who}", tmp_path / who) for who in ("before", "after")}


def test_losses_are_compared_document_by_document(tmp_path: Path, text: Path) -> None:
    config = RetentionConfig(texts={"general": HeldOutText(path=text)})
    reads = Reads()
    path = measure_retention(config, tmp_path / "out", models(tmp_path), reads.open)
    (row,) = read_json(path)["texts"]
    assert (row["documents"], row["read"]) == (NUM_DOCUMENTS, NUM_DOCUMENTS - 1)
    changes = [0.5 * (1 + n % 2) for n in range(1, NUM_DOCUMENTS)]
    assert row["change"]["mean"] == pytest.approx(statistics.fmean(changes))
    assert row["loss"]["after"] - row["loss"]["before"] == pytest.approx(row["change"]["mean"])
    low, high = row["change"]["interval95"]
    assert 0 < low < row["change"]["mean"] < high
    assert row["change"]["worse"] == NUM_DOCUMENTS - 1
    assert row["change"]["verdict"] == "forgotten"


def test_what_is_there_is_not_read_again(tmp_path: Path, text: Path) -> None:
    config = RetentionConfig(texts={"general": HeldOutText(path=text)})
    reads = Reads()
    asked = models(tmp_path)
    first = measure_retention(config, tmp_path / "out", asked, reads.open).read_bytes()
    assert measure_retention(config, tmp_path / "out", asked, reads.open).read_bytes() == first
    assert reads.opened == ["before", "after"]
    asked["after"] = ("another print", asked["after"][1])
    measure_retention(config, tmp_path / "out", asked, reads.open)
    text.write_text(text.read_text() + '{"text": "One more of them."}\n')
    measure_retention(config, tmp_path / "out", asked, reads.open)
    assert reads.opened == ["before", "after", "after", "before", "after"]


def test_one_model_has_losses_and_no_change(tmp_path: Path, text: Path) -> None:
    config = RetentionConfig(texts={"general": HeldOutText(path=text, limit=7)})
    alone = {"after": models(tmp_path)["after"]}
    (row,) = read_json(measure_retention(config, tmp_path, alone, Reads().open))["texts"]
    assert list(row["loss"]) == ["after"]
    assert row["change"] is None
    assert row["documents"] == 7


def test_documents_are_spread_over_the_file(tmp_path: Path, text: Path) -> None:
    chosen = sample_documents("general", HeldOutText(path=text, limit=4))
    assert chosen == [f"A text of number {n}." if n else "Hm." for n in (0, 10, 20, 30)]
    plain = tmp_path / "plain.txt"
    plain.write_text("one\ntwo\n\n\nthree\n\n")
    assert sample_documents("p", HeldOutText(path=plain)) == ["one\ntwo", "three"]
    plain.write_text("only one")
    with pytest.raises(UserError, match="has 1 documents"):
        sample_documents("p", HeldOutText(path=plain))
    with pytest.raises(ValidationError, match="give 'texts' or 'sets'"):
        RetentionConfig()


def test_a_road_leaves_retention_beside_its_scores(
    road: Road, text: Path, add_up: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later model adds up wrongly where the first could: problems are lost."""

    class Losses(Reads):
        def __init__(self, folder: Path, **_: object) -> None:
            super().__init__()
            self.open(folder)

    monkeypatch.setattr("megatron_math.engine.losses.TextLosses", Losses)
    road.raw["evaluate"]["retention"] = {
        "texts": {"general": {"path": str(text)}},
        "sets": ["sums"],
    }

    def open_engine(folder: Path) -> ScriptedEngine:
        is_after = folder.parent.name == "60_export"
        return ScriptedEngine(lambda prompt: " The answer is 7." if is_after else add_up(prompt))

    stage = room.run(road, open_engine=open_engine)
    facts = read_json(stage.folder / "retention.json")
    (found,) = facts["sets"]
    assert found["problems"] == {"before": 23, "after": 23}
    assert found["lost"] == found["right"]["before"] > 0
    assert found["learned"] == found["right"]["after"] == 0
    assert facts["texts"][0]["text"] == "general"
    assert room.run(road, open_engine=open_engine).was_done
    text.write_text(text.read_text() + '{"text": "Other words."}\n')
    assert not room.run(road, open_engine=open_engine).was_done
    road.raw["evaluate"]["retention"] = {"sets": ["unknown"]}
    with pytest.raises(UserError, match="nobody is asked unknown"):
        room.run(road, open_engine=open_engine)
    del road.raw["evaluate"]["retention"]
    assert not (room.run(road, open_engine=open_engine).folder / "retention.json").exists()
