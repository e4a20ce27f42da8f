"""The local engine: batching, padding, end tokens, stop strings and limits change nothing else."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.engine.draw import Draw, choose
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Generation, Message, Request

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
    from megatron_math.engine.decoder import Decoder

    right = HuggingFaceEngine(tiny_hf, batch_size=8).generate(PROMPTS, MAX_NEW_TOKENS)
    original = Decoder.__init__

    def with_padding_attended(self: Any, *args: Any) -> None:
        original(self, *args)
        self._mask_BT = self._mask_BT * 0 + 1

    monkeypatch.setattr(Decoder, "__init__", with_padding_attended)
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


def test_samples_depend_on_seeds_and_not_on_the_batch(tiny_hf: Path) -> None:
    engine = HuggingFaceEngine(tiny_hf)
    requests = [
        Request(f"{i} + {i} =", 12, n=3, temperature=0.9, top_p=0.95, seed=i) for i in range(6)
    ]
    together = [answer for _, answer in engine.answers(requests)]
    alone = [HuggingFaceEngine(tiny_hf, batch_size=1).answer_group([r])[0] for r in requests]
    assert together == alone
    texts = {item.text for answer in together for item in answer.generations}
    assert len(texts) == 18, "samples are alike"
    again = replace(requests[2], n=1, seed=3)  # the second sample of seed 2
    assert engine.answer_group([again])[0].generations[0] == together[2].generations[1]


def test_requests_of_all_kinds(tiny_hf: Path) -> None:
    engine = HuggingFaceEngine(tiny_hf)
    greedy = Request("abc", 8, logprobs=True)
    nearly = Request("abc", 8, temperature=2.0, top_p=1e-6, seed=1)
    long = Request("x" * 200, 8, n=2)
    first, second, failed = engine.answer_group([greedy, nearly, long])
    [expected] = engine.generate(["abc"], 8)
    assert replace(first.generations[0], logprobs=None) == second.generations[0] == expected
    logprobs = first.generations[0].logprobs
    assert logprobs is not None
    assert len(logprobs) == expected.num_tokens == first.new_tokens
    assert all(-6 < value < 0 for value in logprobs)
    said = "no room for an answer: the prompt has 200 tokens, and the model holds 96"
    assert failed.failure == said
    with pytest.raises(UserError, match="no chat template"):
        engine.answer_group([Request((Message("user", "abc"),), 8)])


def test_shares_are_drawn_as_often_as_they_say() -> None:
    import torch

    shares = torch.tensor([0.5, 0.2, 0.2, 0.1])
    for top_p, temperature, expected in (
        (1.0, 1.0, [0.5, 0.2, 0.2, 0.1]),
        (0.65, 1.0, [5 / 7, 2 / 7, 0.0, 0.0]),
        (1.0, 0.5, [25 / 34, 4 / 34, 4 / 34, 1 / 34]),
    ):
        draws = [Draw(temperature, top_p, random.Random(i)) for i in range(20_000)]
        tokens = choose(shares.log().expand(20_000, 4), [None, *draws[1:]])
        assert tokens[0] == 0
        found = tokens[1:].bincount(minlength=4) / (len(draws) - 1)
        assert torch.allclose(found, torch.tensor(expected), atol=0.015)
