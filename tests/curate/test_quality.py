"""Scores of quality: by a linear classifier, a model's loss, a model's yes; the best stay."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_web import gsm8k, read_rows, wikitext, write_rows

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record
from megatron_math.base.road import Road
from megatron_math.curate.quality.config import QualityConfig, QuestionConfig
from megatron_math.curate.quality.run import Quality
from megatron_math.curate.quality.scorers import QuestionScorer, probability_of_yes
from megatron_math.curate.run import run
from megatron_math.engine.interface import Answer, Engine, Generation, Request

ENGINE = {"server": {"url": "http://127.0.0.1:9/v1", "model": "m"}}


class Fixed:
    """Scores by id."""

    def __init__(self, scores: dict[str, float | None]) -> None:
        self._scores = scores

    def scores(self, records: Any) -> list[float | None]:
        return [self._scores[record.id] for record in records]


def make_road(folder: Path, quality: dict[str, Any], rows: list[dict[str, Any]]) -> Road:
    source = write_rows(folder / "a.jsonl", rows)
    other = write_rows(folder / "b.jsonl", [{"id": "b", "text": "All of b stays."}])
    section = {
        "sources": {"a": {"path": str(source)}, "b": {"path": str(other)}},
        "quality": quality,
    }
    path = folder / "road.yaml"
    path.write_text(yaml.safe_dump({"name": "quality", "curate": section}))
    return Road.load(path, runs=folder / "runs")


@pytest.fixture
def linear(tmp_path: Path, shared_data: Path) -> dict[str, Any]:
    texts = {"good": gsm8k(shared_data, 0, 200), "bad": wikitext(shared_data, "valid")[:200]}
    found: dict[str, Any] = {"classifier": {"bits": 18}}
    for name, own in texts.items():
        rows = [{"id": str(n), "text": text} for n, text in enumerate(own)]
        found[name] = {"path": str(write_rows(tmp_path / f"{name}.jsonl", rows))}
    return found


def test_the_best_part_by_a_linear_classifier(
    tmp_path: Path, shared_data: Path, linear: dict[str, Any]
) -> None:
    texts = gsm8k(shared_data, 1000, 1100) + wikitext(shared_data, "test")[:300]
    rows = [{"id": f"r{n}", "text": text} for n, text in enumerate(texts)]
    folder = run(make_road(tmp_path, {"linear": linear, "keep": {"a": 0.25}}, rows)).folder
    kept, drops = read_rows(folder / "a.jsonl"), read_rows(folder / "drops" / "a.jsonl")
    assert len(kept) == 100
    right = sum(int(row["id"][1:]) < 100 for row in kept)
    print("problems among the best quarter:", right)
    assert right >= 97
    assert min(row["meta"]["quality"] for row in kept) >= max(row["score"] for row in drops)
    assert sorted(row["rank"] for row in drops) == list(range(101, 401))
    assert {row["reason"] for row in drops} == {"quality"}
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["kept"] == 101
    counts = stats["sources"]["a"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (400, 100, 300)
    assert counts["reasons"] == {"quality": 300}
    assert len(counts["quality"]["scores in tenths"]) == 11
    assert stats["sources"]["b"]["kept"] == 1


def test_wrong_labels_choose_no_better_than_chance(
    tmp_path: Path, shared_data: Path, linear: dict[str, Any]
) -> None:
    good, bad = (read_rows(Path(linear[name]["path"])) for name in ("good", "bad"))
    write_rows(Path(linear["good"]["path"]), good[::2] + bad[::2])
    write_rows(Path(linear["bad"]["path"]), good[1::2] + bad[1::2])
    texts = gsm8k(shared_data, 1000, 1200) + wikitext(shared_data, "test")[:200]
    rows = [{"id": f"r{n}", "text": text} for n, text in enumerate(texts)]
    folder = run(make_road(tmp_path, {"linear": linear, "keep": {"a": 200}}, rows)).folder
    right = sum(int(row["id"][1:]) < 200 for row in read_rows(folder / "a.jsonl"))
    print("problems among the best half, of 200:", right)
    assert 20 < right < 180, "right labels give 194 and more"


def test_limits_and_equal_scores(tmp_path: Path) -> None:
    scores = {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1, "e": None, "f": 0.99}
    config = QualityConfig.model_validate(
        {"question": {"engine": ENGINE}, "least": 0.2, "most": 0.95, "keep": 2}
    )
    quality = Quality(config, Fixed(scores))  # type: ignore[arg-type]
    records = [Record(name, "s", text=name) for name in scores]
    drops = quality.judge(records)
    assert [drop and (drop["reason"], drop["score"]) for drop in drops] == [
        None, None, None, ("quality", 0.1), ("quality", None), ("quality", 0.99)
    ]  # fmt: skip
    rows = [record.to_json() for record in records[:3]]
    (tmp_path / "drops").mkdir()
    write_rows(tmp_path / "s.jsonl", rows)
    write_rows(tmp_path / "drops" / "s.jsonl", [])
    counts = {"read": 6, "kept": 3, "dropped": 3, "reasons": {"quality": 3}}
    quality.finish(tmp_path, {"s": counts})
    assert [row["id"] for row in read_rows(tmp_path / "s.jsonl")] == ["a", "b"], "the earlier one"
    assert (counts["kept"], counts["dropped"], counts["reasons"]) == (2, 4, {"quality": 4})
    assert counts["quality"]["not scored"] == 1  # type: ignore[index]


class Yes(Engine):
    """Answers yes to texts with numbers, and is as sure as it is told to be."""

    def __init__(self, sure: float | None) -> None:
        self._sure = sure
        self.asked: list[Request] = []

    def generate(self, prompts: Any, max_new_tokens: int, stop: Any = ()) -> list[Generation]:
        raise AssertionError("requests are what is asked")

    def answer_group(self, requests: Any) -> list[Answer]:
        self.asked += requests
        logprobs = None if self._sure is None else (math.log(self._sure), -0.1)
        return [
            Answer((Generation(self._say(request.texts()[0]), "stop", 2, logprobs),))
            for request in requests
        ]

    def _say(self, prompt: str) -> str:
        return "Maybe" if "maybe" in prompt else " Yes." if "1" in prompt else "no"


@pytest.mark.parametrize(("sure", "found"), [(0.8, [0.8, 0.2, None]), (None, [1.0, 0.0, None])])
def test_a_models_yes_is_a_score(sure: float | None, found: list[float | None]) -> None:
    engine = Yes(sure)
    scorer = QuestionScorer(QuestionConfig.model_validate({"engine": ENGINE}), engine)
    records = [Record("x", "s", text=text) for text in ("1 + {{ 1 }}", "bread", "maybe")]
    assert scorer.scores(records) == [None if f is None else pytest.approx(f) for f in found]
    assert all(request.logprobs for request in engine.asked)
    assert "1 + {{ 1 }}" in engine.asked[0].texts()[0]
    assert probability_of_yes(Generation("是。", "stop", 1)) == 1.0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level model that was taught by hand: what follows a letter is the letter again."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    letters = {chr(97 + n): n for n in range(26)} | {"Ġ": 26, "<unk>": 27}
    engine = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=engine).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        vocab_size=28, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.copy_(4 * model.model.embed_tokens.weight / 0.02 * 0.2)
    model.save_pretrained(folder)
    return folder


def test_a_models_loss_is_a_score(tmp_path: Path, tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["aaaaaaaaaa", "qxjvkz", "bbbb cccc dddd", "abcdefghij" * 9, "z", "hello there"]
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    section = {"loss": {"hf": str(tiny_model), "batch_tokens": 40, "max_tokens": 32}}
    folder = run(make_road(tmp_path, section, rows)).folder
    found = {row["id"]: row["meta"].get("quality") for row in read_rows(folder / "a.jsonl")
             if "meta" in row}  # fmt: skip
    model, tokenizer = (
        one.from_pretrained(tiny_model) for one in (AutoModelForCausalLM, AutoTokenizer)
    )
    for n, text in enumerate(texts):
        if len(text) == 1:
            assert str(n) not in found, "one token has no loss"
            continue
        ids = torch.tensor([tokenizer(text)["input_ids"][:32]])
        alone = -model(ids, labels=ids).loss.item()
        assert found[str(n)] == pytest.approx(alone, abs=1e-4)
    assert found["0"] > found["1"], "the model says the letter again"


def test_what_a_local_model_answers_is_kept(tmp_path: Path, tiny_model: Path) -> None:
    """A model that says the last letter again answers neither yes nor a label: nothing is made up.

    With other limits nothing is asked again."""
    rows = [{"id": str(n), "text": letter * 5} for n, letter in enumerate("abc")]
    engine = {"hf": {"folder": str(tiny_model), "batch_size": 2}}
    prompt = tmp_path / "prompt.md"
    prompt.write_text("{{ text }}")
    question = {"engine": engine, "prompt": str(prompt)}
    road = make_road(tmp_path, {"question": question}, rows)
    table = tmp_path / "table.yaml"
    table.write_text("labels: {one: x, two: y}\n")
    added = [
        f"curate.labels.topic.table={table}",
        f"curate.labels.topic.engine.hf.folder={tiny_model}",
    ]
    road = Road.load(road.yaml_path, added, runs=tmp_path / "runs")
    folder = run(road).folder
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["sources"]["a"]["quality"] == {"not scored": 3}
    assert stats["sources"]["a"]["labels"] == {"topic": {"none": 3}}
    answers = [folder / "quality" / "answers.jsonl", folder / "labels" / "topic" / "answers.jsonl"]
    before = [path.read_bytes() for path in answers]
    assert all(before)
    least = Road.load(road.yaml_path, [*added, "curate.quality.least=0.5"], runs=tmp_path / "runs")
    stats = json.loads((run(least).folder / "stats.json").read_text())
    assert stats["sources"]["a"]["reasons"] == {"quality": 3}
    assert [path.read_bytes() for path in answers] == before


def test_no_torch_unless_a_model_is_asked(tmp_path: Path, linear: dict[str, Any]) -> None:
    rows = [{"id": "0", "text": "Two and two are four, and that is all that is said here."}]
    road = make_road(tmp_path, {"linear": linear}, rows)
    code = (
        "import sys; from pathlib import Path; from megatron_math.base.road import Road; "
        "from megatron_math.curate.run import run; "
        f"run(Road.load({str(road.yaml_path)!r}, runs={str(tmp_path / 'runs')!r})); "
        "sys.exit(3 if 'torch' in sys.modules else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_cannot_be_done_is_said(tmp_path: Path, linear: dict[str, Any]) -> None:
    for section, said in (
        ({}, "one of 'linear'"),
        ({"linear": linear, "loss": {"hf": "x"}}, "one of 'linear'"),
        ({"linear": linear, "keep": {"c": 3}}, "quality.keep names c"),
        ({"linear": linear, "least": 1, "most": 0}, "no record would stay"),
        ({"linear": linear | {"good": linear["bad"] | {"path": str(tmp_path / "a.jsonl")}}},
         "good: 1 records"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            run(make_road(tmp_path, section, [{"id": "0", "text": "one two three"}]))
