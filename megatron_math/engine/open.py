"""From the section `engine` to an engine whose answers are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_math.base.files import blake3_file, sha256_json
from megatron_math.engine.config import EngineConfig
from megatron_math.engine.interface import Engine
from megatron_math.engine.kept import KeptEngine

# Of a model's folder: what decides an answer. Read-me files and receipts do not.
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")


def open_engine(
    config: EngineConfig, folder: Path, *, stopping: Callable[[], bool] = lambda: False
) -> KeptEngine:
    """The engine that `config` asks for, with answers and costs in `folder`.

    Raises UserError when the key cannot be sent, the model cannot be loaded, or another process
    writes to the folder.
    """
    engine: Engine
    who: dict[str, Any]
    if config.server is not None:
        from megatron_math.engine.server import ServerEngine

        engine, who = ServerEngine(config.server), {"server": config.server.identity()}
    else:
        from megatron_math.engine.hf import HuggingFaceEngine

        assert config.hf is not None
        engine = HuggingFaceEngine(
            config.hf.folder, batch_size=config.hf.batch_size, dtype=config.hf.dtype
        )
        engine.in_flight = 2 * config.hf.batch_size
        who = {"hf": config.hf.identity() | {"files": fingerprint_of_model(config.hf.folder)}}
    return KeptEngine(engine, folder, who=who, budget=config.budget, stopping=stopping)


def fingerprint_of_model(folder: Path) -> str:
    """Digest of the files that decide what a model in a Hugging Face folder answers."""
    files = {path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sha256_json({path.name: blake3_file(path) for path in sorted(files)})
