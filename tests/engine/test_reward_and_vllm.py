"""A reward model against its own forward pass; vLLM's offline engine against a stand-in for it."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Request
from megatron_math.engine.reward import RewardModel
from megatron_math.engine.vllm import VllmEngine


@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_reward_is_the_model_s_one_number(tiny_hf: Path, tmp_path: Path, num_labels: int) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    shutil.copytree(tiny_hf, tmp_path / "reward", ignore=shutil.ignore_patterns("*.safetensors"))
    values = json.loads((tiny_hf / "config.json").read_text())
    torch.manual_seed(3)
    config = LlamaConfig(**values, num_labels=num_labels)
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "reward")
    if num_labels > 1:
        with pytest.raises(UserError, match="gives 2 numbers a text"):
            RewardModel(tmp_path / "reward")
        return
    pairs = [("1 + 1 is", " 2"), ("1 + 1 is", " eleven"), ("x" * 90, "y" * 20)]
    found = RewardModel(tmp_path / "reward").scores(pairs)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    for (question, answer), score in zip(pairs, found, strict=True):
        ids = tokenizer(question + answer)["input_ids"][-96:]
        with torch.no_grad():
            assert score == pytest.approx(float(model(torch.tensor([ids])).logits[0, 0]))
    with pytest.raises(UserError, match="reward"):
        RewardModel(tmp_path)


class StandIn:
    """vllm.LLM as far as it is used: texts by our own engine for the same folder."""

    def __init__(self, *, model: str, dtype: str, **options: Any) -> None:
        self.said = {"model": model, "dtype": dtype} | options
        self.engine = HuggingFaceEngine(model)
        limits = SimpleNamespace(max_model_len=96)
        self.llm_engine = SimpleNamespace(model_config=limits)
        self.settings: list[Any] = []

    def get_tokenizer(self) -> Any:
        return self.engine._tokenizer

    def generate(self, prompts: list[Any], parameters: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.settings += parameters
        pairs = zip(prompts, parameters, strict=True)
        return [self._answer(prompt["prompt_token_ids"], one) for prompt, one in pairs]

    def _answer(self, ids: list[int], settings: Any) -> Any:
        text = self.engine._decode([ids])[0]
        if "prompt_logprobs" in vars(settings):
            whole = Request(text[0], 1, continuation=text[1:])
            values = self.engine.answer_group([whole])[0].generations[0].logprobs or ()
            given = [{t: SimpleNamespace(logprob=v)} for t, v in zip(ids[1:], values, strict=True)]
            return SimpleNamespace(prompt_logprobs=[None, *given], outputs=[])
        request = Request(text, settings.max_tokens, n=settings.n, logprobs=True,
                          temperature=settings.temperature, seed=settings.seed)  # fmt: skip
        outputs = [
            SimpleNamespace(
                text=one.text, finish_reason=one.finish, token_ids=[7] * one.num_tokens,
                logprobs=[{7: SimpleNamespace(logprob=v)} for v in one.logprobs or ()],
            )
            for one in self.engine.answer_group([request])[0].generations
        ]  # fmt: skip
        return SimpleNamespace(outputs=outputs)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = StandIn, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_vllm_is_asked_as_the_others_are(tiny_hf: Path, vllm: None) -> None:
    engine = VllmEngine(tiny_hf, dtype="fp32", options={"max_model_len": 96})
    local = HuggingFaceEngine(tiny_hf)
    requests = [
        Request("1 + 1", 8, ("q",)),
        Request("2 + 2", 8, ("q",), n=2, temperature=1.0, seed=4, logprobs=True),
        Request("7 is", 8, ("q",), continuation=" not 8"),
        Request("x" * 96, 8, ("q",)),
    ]
    found, expected = engine.answer_group(requests), local.answer_group(requests)
    for ours, theirs in zip(found, expected, strict=True):
        assert [g.text for g in ours.generations] == [g.text for g in theirs.generations]
        assert (ours.failure is None) == (theirs.failure is None)
    assert found[2].generations[0].logprobs == pytest.approx(expected[2].generations[0].logprobs)
    assert found[1].generations[0].logprobs is not None
    assert engine._model.said == {"model": str(tiny_hf), "dtype": "float32", "max_model_len": 96}
    assert vars(engine._model.settings[0]) == {
        "max_tokens": 8, "stop": ["q"], "n": 1, "temperature": 0.0, "top_p": 1.0, "seed": None,
        "logprobs": None,
    }  # fmt: skip


def test_without_vllm_the_error_says_what_to_do(
    tiny_hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="install the extra 'vllm'"):
        VllmEngine(tiny_hf)
