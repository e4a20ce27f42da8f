"""From the section `engine` to an engine whose answers are kept."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from megatron_math.base.files import blake3_file, sha256_file, sha256_json
from megatron_math.engine.config import EngineConfig
from megatron_math.engine.interface import Answers, Engine, Generation, Keep, Request
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
    return KeptEngine(
        make_engine(config), folder, who=who(config), budget=config.budget, stopping=stopping
    )


def make_engine(config: EngineConfig) -> Engine:
    """The engine alone; its model is loaded."""
    if config.server is not None:
        from megatron_math.engine.server import ServerEngine

        return ServerEngine(config.server)
    if config.vllm is not None:
        from megatron_math.engine.vllm import VllmEngine

        own = config.vllm
        return VllmEngine(own.folder, dtype=own.dtype, options=own.options)
    engine: Engine
    if config.megatron is not None:
        from megatron_math.engine.megatron import MegatronEngine

        local = config.megatron
        engine = MegatronEngine(local.folder, batch_size=local.batch_size, dtype=local.dtype)
    else:
        from megatron_math.engine.hf import HuggingFaceEngine

        assert config.hf is not None
        local = config.hf
        engine = HuggingFaceEngine(local.folder, batch_size=local.batch_size, dtype=local.dtype)
    engine.in_flight = 2 * local.batch_size
    return engine


def who(config: EngineConfig) -> dict[str, Any]:
    """All that tells this model from another, and decides what it answers."""
    if config.server is not None:
        return {"server": config.server.identity()}
    if config.hf is not None:
        return {"hf": config.hf.identity() | {"files": fingerprint_of_model(config.hf.folder)}}
    if config.vllm is not None:
        return {
            "vllm": config.vllm.identity() | {"files": fingerprint_of_model(config.vllm.folder)}
        }
    assert config.megatron is not None
    identity = config.megatron.identity()
    return {
        "megatron": identity | {"checkpoint": fingerprint_of_checkpoint(config.megatron.folder)}
    }


def fingerprint_of_model(folder: Path) -> str:
    """Digest of the files that decide what a model in a Hugging Face folder answers."""
    files = {path for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sha256_json({path.name: blake3_file(path) for path in sorted(files)})


def fingerprint_of_checkpoint(folder: Path) -> str:
    """Digest of a checkpoint, or of the newest in a folder of them."""
    from megatron_math.checkpoint.folders import COMPLETE, open_checkpoint

    return sha256_file(open_checkpoint(folder).folder / COMPLETE)


class LateEngine(Engine):
    """A local engine, made when the first request comes: known answers load nothing."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self._make = make
        self._made: Engine | None = None

    def _engine(self) -> Engine:
        if self._made is None:
            self._made = self._make()
        return self._made

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        return self._engine().generate(prompts, max_new_tokens, stop)

    def answers(self, requests: Iterable[Request], keep: Keep | None = None) -> Answers:
        rest = iter(requests)
        first = next(rest, None)
        if first is not None:
            yield from self._engine().answers(chain([first], rest), keep)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None
