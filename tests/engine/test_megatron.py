"""The checkpoint asked directly: the tokens, samples and likelihoods of transformers' own model."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.convert.folder import convert_folder
from megatron_math.engine.config import EngineConfig, LocalConfig
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Request
from megatron_math.engine.megatron import MegatronEngine
from megatron_math.engine.open import make_engine, who
from megatron_math.model.reading import KeyValues

PROMPTS = ["Question: 1 + 1?\nSolution:", "a", "Ann has 3 apples and buys 4 more.", "zz", "7 * 6"]


@pytest.fixture(scope="module", params=["llama", "mistral"])
def both(
    request: pytest.FixtureRequest, tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """(Hugging Face folder, the same weights as a checkpoint); mistral sees eight tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(tiny_hf, folder / "hf")
    if request.param == "mistral":
        config = json.loads((folder / "hf" / "config.json").read_text())
        config |= {"model_type": "mistral", "sliding_window": 8}
        config["architectures"] = ["MistralForCausalLM"]
        (folder / "hf" / "config.json").write_text(json.dumps(config))
    convert_folder(folder / "hf", folder / "core")
    return folder / "hf", folder / "core"


@pytest.fixture
def engine(both: tuple[Path, Path]) -> Iterator[MegatronEngine]:
    found = MegatronEngine(both[1], batch_size=3)
    yield found
    found.close()


def test_greedy_texts_of_transformers_in_any_batch(
    both: tuple[Path, Path], engine: MegatronEngine
) -> None:
    expected = HuggingFaceEngine(both[0], batch_size=5).generate(PROMPTS, 30)
    assert engine.generate(PROMPTS, 30) == expected
    assert [engine.generate([prompt], 30)[0] for prompt in PROMPTS] == expected
    assert len({generation.text for generation in expected}) == len(PROMPTS), "prompts matter"


def test_samples_and_likelihoods(both: tuple[Path, Path], engine: MegatronEngine) -> None:
    local = HuggingFaceEngine(both[0], batch_size=4)
    drawn = [Request(p, 12, n=2, temperature=1.0, top_p=0.9, seed=5) for p in PROMPTS]
    assert engine.answer_group(drawn) == local.answer_group(drawn)
    given = [Request(p, 1, continuation=text) for p in PROMPTS for text in (" 3", " pie and")]
    mixed = [*given, Request("a", 12)]
    for ours, theirs in zip(engine.answer_group(mixed), local.answer_group(mixed), strict=True):
        assert ours.generations[0].text == theirs.generations[0].text
        values, wanted = ours.generations[0].logprobs, theirs.generations[0].logprobs
        assert values == (None if wanted is None else pytest.approx(wanted, rel=1e-5))


@pytest.mark.parametrize("fault", ["padding is read", "positions begin anew"])
def test_faults_would_be_seen(
    both: tuple[Path, Path],
    engine: MegatronEngine,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    expected = HuggingFaceEngine(both[0], batch_size=5).generate(PROMPTS, 30)

    class Faulty(KeyValues):
        @property
        def real_BT(self) -> Any:  # type: ignore[override]
            return self._real * 0 + 1 if fault == "padding is read" else self._real

        @real_BT.setter
        def real_BT(self, value: Any) -> None:
            self._real = value

        @property
        def num_read(self) -> int:  # type: ignore[override]
            return 0 if fault == "positions begin anew" else self._num_read

        @num_read.setter
        def num_read(self, value: int) -> None:
            self._num_read = value

    monkeypatch.setattr("megatron_math.model.reading.KeyValues", Faulty)
    monkeypatch.setattr("megatron_math.model.layers.KeyValues", Faulty)
    assert engine.generate(PROMPTS, 30) != expected


def test_the_section_opens_it_and_knows_it_by_content(both: tuple[Path, Path]) -> None:
    config = EngineConfig(megatron=LocalConfig(folder=both[1], batch_size=2))
    made = make_engine(config)
    assert made.in_flight == 4
    made.close()
    moved = EngineConfig(megatron=LocalConfig(folder=both[1] / "release"))
    assert who(moved) == who(config)
    shutil.rmtree(both[1] / "release" / "tokenizer")
    with pytest.raises(UserError, match="cannot be used|holds no folder 'tokenizer'"):
        MegatronEngine(both[1])
