"""The local engine: batching, padding, end tokens, stop strings and limits change nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Generation

PROMPTS = [
    "Question: 1 + 1?\nSolution:",
    "a",
    "Question: Ann has 3 apples and buys 4 more. How many?\nSolution:",
    "zz",
    "Question: 7 * 6?\nSolution:",
    "The sum of two numbers",
    "b",
]
MAX_NEW_TOKENS = 24


def reference(folder: Path, prompt: str, max_new_tokens: int = MAX_NEW_TOKENS) -> list[int]:
    """The new tokens of one unpadded prompt by transformers' own generate()."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def copy_with_end_token(folder: Path, target: Path, end_token: int | list[int]) -> Path:
    shutil.copytree(folder, target)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps(values | {"eos_token_id": end_token}))
    return target


def test_batched_equals_single_equals_transformers(tiny_hf: Path) -> None:
    engine = HuggingFaceEngine(tiny_hf, batch_size=4)
    batched = engine.generate(PROMPTS, MAX_NEW_TOKENS)
    single = [
        HuggingFaceEngine(tiny_hf, batch_size=1).generate([p], MAX_NEW_TOKENS)[0] for p in PROMPTS
    ]
    assert batched == single
    for prompt, generation in zip(PROMPTS, batched, strict=True):
        ids = [token for token in reference(tiny_hf, prompt) if token != 1]
        assert generation.num_tokens == len(ids)
        assert generation.text == engine._decode([ids])[0]
    assert len({generation.text for generation in batched}) == len(PROMPTS), "prompts matter"


def test_wrong_positions_would_be_seen(tiny_hf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: padding that counts as positions gives other answers."""
    from megatron_math.engine import hf

    right = HuggingFaceEngine(tiny_hf, batch_size=8).generate(PROMPTS, MAX_NEW_TOKENS)
    original = hf._Decoder.__init__

    def with_padding_attended(self: Any, *args: Any) -> None:
        original(self, *args)
        self._mask_BT = self._mask_BT * 0 + 1

    monkeypatch.setattr(hf._Decoder, "__init__", with_padding_attended)
    wrong = HuggingFaceEngine(tiny_hf, batch_size=8).generate(PROMPTS, MAX_NEW_TOKENS)
    assert wrong != right


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_end_tokens_end_rows_at_different_steps(
    tiny_hf: Path, tmp_path: Path, batch_size: int
) -> None:
    runs = [reference(tiny_hf, prompt) for prompt in PROMPTS]
    ends = [runs[0][3], runs[2][9], 1]  # several end tokens: rows leave the batch one after another
    folder = copy_with_end_token(tiny_hf, tmp_path / "hf", ends)
    engine = HuggingFaceEngine(folder, batch_size=batch_size)
    generations = engine.generate(PROMPTS, MAX_NEW_TOKENS)
    for run, generation in zip(runs, generations, strict=True):
        stops = [i for i, token in enumerate(run) if token in ends]
        kept = run[: stops[0]] if stops else run
        expected = Generation(engine._decode([kept])[0], "stop" if stops else "length", len(kept))
        assert generation == expected
    assert {generation.finish for generation in generations} == {"stop", "length"}


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_stop_strings_cut_the_text(tiny_hf: Path, batch_size: int) -> None:
    engine = HuggingFaceEngine(tiny_hf, batch_size=batch_size)
    free = engine.generate(PROMPTS, MAX_NEW_TOKENS)
    texts = [generation.text for generation in free]
    stop = [texts[0][5:8], texts[4][10:12], "never written"]
    stopped = engine.generate(PROMPTS, MAX_NEW_TOKENS, stop)
    for text, generation in zip(texts, stopped, strict=True):
        ends = [text.index(string) for string in stop if string in text]
        assert generation.text == (text[: min(ends)] if ends else text)
        assert generation.finish == ("stop" if ends else "length")
    assert stopped[0].num_tokens < free[0].num_tokens
    assert {generation.finish for generation in stopped} == {"stop", "length"}


def test_one_token_and_a_full_context(tiny_hf: Path) -> None:
    engine = HuggingFaceEngine(tiny_hf, batch_size=4)
    assert [g.num_tokens for g in engine.generate(["abc", "d"], 1)] == [1, 1]
    long_prompt = "x" * 90  # the model holds 96
    short, cut = engine.generate(["a", long_prompt], 24)
    assert (cut.finish, cut.num_tokens) == ("length", 6)
    assert short == engine.generate(["a"], 24)[0]
    assert engine.generate(["x" * 96, "a"], 24) == [Generation("", "length", 0), short]
    with pytest.raises(UserError, match="has 97 tokens and the model holds 96"):
        engine.generate(["x" * 96, "x" * 97], 1)
    with pytest.raises(UserError, match="0 new tokens"):
        engine.generate(["a"], 0)
    assert engine.generate([], 5) == []


def test_a_folder_without_a_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        HuggingFaceEngine(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        HuggingFaceEngine(tmp_path)
