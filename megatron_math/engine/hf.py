"""A local Hugging Face folder, on CPU or on one accelerator.

torch and transformers are imported when an engine is made, not before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from megatron_math.base.errors import UserError
from megatron_math.engine.decoder import Decoder
from megatron_math.engine.draw import Draw
from megatron_math.engine.local import LocalEngine


def load_tokenizer_folder(folder: Path | str) -> Any:
    """What AutoTokenizer reads there, without code of its own. UserError otherwise."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer that transformers loads: {error}") from error


def load_folder(folder: Path | str, dtype: Literal["fp32", "bf16"]) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face folder, without code of its own. UserError otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be loaded by transformers: {error}") from error
    return model, load_tokenizer_folder(folder)


class HuggingFaceEngine(LocalEngine):
    """A causal language model in a local folder, with its own tokenizer and end tokens.

    Raises UserError when the folder does not hold a model and a tokenizer.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        batch_size: int = 64,
        dtype: Literal["fp32", "bf16"] = "fp32",
        device: str | None = None,
    ) -> None:
        import torch
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # a bar per tensor file, into our log

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} is not a Hugging Face model folder (no config.json); give a folder "
                f"with config.json, weights and tokenizer, such as <run>/60_export/hf"
            )
        if device is None:
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            device = accelerator.type if accelerator else "cpu"
        self._device = torch.device(device)
        model, tokenizer = load_folder(folder, dtype)
        self._model = model.to(self._device).eval()
        ends = (
            model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id
        )  # fmt: skip
        super().__init__(
            tokenizer,
            max_tokens=model.config.max_position_embeddings,
            end_ids=first_end_ids(ends),
            batch_size=batch_size,
        )

    def _open(
        self, prompt_ids: list[list[int]], draws: Sequence[Draw | None], with_logprobs: bool
    ) -> Decoder:
        return Decoder(self._model, prompt_ids, draws, with_logprobs, self._device)


def first_end_ids(candidates: Sequence[int | list[int] | None]) -> list[int]:
    """The first that says anything, as a list."""
    for end in candidates:
        if end is not None:
            return list(end) if isinstance(end, list | tuple) else [end]
    return []
