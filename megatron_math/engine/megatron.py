"""A Megatron-Core checkpoint, asked directly: no export, no transformers model.

One process, the whole model on one device. torch and megatron.core are imported when an engine is
made, not before.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json
from megatron_math.engine.decoder import Decoder
from megatron_math.engine.draw import Draw
from megatron_math.engine.hf import first_end_ids, load_tokenizer_folder
from megatron_math.engine.local import LocalEngine

TOKENIZER_FOLDER = "tokenizer"
GENERATION_CONFIG = "hf/generation_config.json"  # of an import, kept beside the weights


class MegatronEngine(LocalEngine):
    """The model of a checkpoint folder, written in whatever layout; adapters are merged.

    tokenizer: the folder of one, where the checkpoint holds none. At most one is open at a time:
    Megatron-Core keeps its process groups for the whole process. Raises UserError when the folder
    holds no whole checkpoint, or no tokenizer is known.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        batch_size: int = 64,
        dtype: Literal["fp32", "bf16"] = "fp32",
        tokenizer: Path | None = None,
    ) -> None:
        import torch

        from megatron_math.checkpoint.folders import open_checkpoint
        from megatron_math.checkpoint.state import checkpoint_dtype, load_weights
        from megatron_math.model.config import ModelConfig
        from megatron_math.model.lora import merge_adapters
        from megatron_math.model.lora_config import checkpoint_lora
        from megatron_math.model.whole import open_model

        checkpoint = open_checkpoint(Path(folder))
        own = checkpoint.folder / TOKENIZER_FOLDER
        loaded = _load_tokenizer(own if own.is_dir() else tokenizer, checkpoint.folder)
        config = ModelConfig.model_validate(checkpoint.read("model.json"))
        lora = checkpoint_lora(checkpoint.folder)
        self._stack = ExitStack()
        with ExitStack() as until_whole:
            written = checkpoint_dtype(checkpoint.folder)
            model = until_whole.enter_context(
                open_model(config, written, seed=0, fresh=False, lora=lora)
            )
            load_weights([model], checkpoint.folder)
            wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
            if lora is not None:
                merge_adapters(model)
            self._model = model.to(wanted)
            self._stack = until_whole.pop_all()
        kept = checkpoint.folder / GENERATION_CONFIG
        asked = read_json(kept).get("eos_token_id") if kept.is_file() else None
        super().__init__(
            loaded,
            max_tokens=config.max_sequence_length,
            end_ids=first_end_ids((asked, loaded.eos_token_id)),
            batch_size=batch_size,
        )

    def close(self) -> None:
        self._model = None
        self._stack.close()

    def _open(
        self, prompt_ids: list[list[int]], draws: Sequence[Draw | None], with_logprobs: bool
    ) -> Decoder:
        device = next(self._model.parameters()).device
        return CoreDecoder(self._model, prompt_ids, draws, with_logprobs, device)


class CoreDecoder(Decoder):
    """The same for a whole model of Megatron-Core."""

    def _new_cache(self) -> Any:
        from megatron_math.model.reading import KeyValues

        return KeyValues()

    def read(self, last: int = 1) -> Any:
        from megatron_math.model.reading import read_on

        return read_on(self._model, self._tokens_BS, self._mask_BT, self._cache, last)


def _load_tokenizer(folder: Path | None, checkpoint: Path) -> Any:
    from megatron_math.tokenizer import load_tokenizer

    if folder is None:
        raise UserError(
            f"{checkpoint} holds no folder '{TOKENIZER_FOLDER}', so nobody knows how its model "
            f"reads; put the one of the training data there"
        )
    if (folder / "tokenizer.json").is_file() and (folder / "tokenizer_config.json").is_file():
        return load_tokenizer_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        load_tokenizer(folder).save_hf(Path(temporary))
        return load_tokenizer_folder(temporary)
