"""Fixtures that every room's tests share."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
LONG_FILES = (
    "train/test_parity.py", "train/test_lora.py", "train/test_resume.py",
    "train/test_expert_layouts.py", "train/test_guards.py", "train/test_fp8_training.py",
    "train/test_guards_several.py", "roof/test_secret_canary.py", "roof/test_jiuzhang3_loop.py",
    "train/test_bad_batches.py", "study/test_study_roads.py", "device/test_torchrun.py",
)  # fmt: skip
"""First, so that two processes that take whole files end together: an order, and no more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {REPOSITORY / "tests" / name: rank for rank, name in enumerate(LONG_FILES)}
    assert all(path.is_file() for path in ranks), (
        "LONG_FILES in tests/conftest.py names a file that is gone"
    )
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's top folder."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real public data that is never committed: $MEGATRON_MATH_DATA, or ../shared/data."""
    folder = Path(os.environ.get("MEGATRON_MATH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "gsm8k" / "test.jsonl").is_file():
        pytest.skip(f"real data is not at {folder}; set MEGATRON_MATH_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer of each kind: Mistral's SentencePiece model, the first 8,000 ranks of its tekken
    as a tiktoken file, and a small byte-level tokenizer.json that asks for a BOS."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        pytest.skip("mistral-common, which ships real tokenizers, is not installed")
    data = Path(spec.origin).parent / "data"
    folder = tmp_path_factory.mktemp("tokenizers")
    ranks = json.loads((data / "tekken_240718.json").read_text())["vocab"][:8000]
    tiktoken_file = folder / "tiktoken" / "tokenizer.model"
    tiktoken_file.parent.mkdir()
    tiktoken_file.write_text("".join(f"{row['token_bytes']} {row['rank']}\n" for row in ranks))
    return {
        "SentencePieceTokenizer": data / "tokenizer.model.v1",
        "TikTokenizer": tiktoken_file,
        "HuggingFaceTokenizer": _byte_level_tokenizer(folder / "huggingface"),
    }


def _byte_level_tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [item.__doc__ or "" for item in (str, dict, list, int, float, os, json, Path, pytest)]
    engine.train_from_iterator(texts, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"
