"""A reward model: one number a text, from transformers' sequence classification."""

from collections.abc import Sequence
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.engine.interface import Message


class RewardModel:
    """A local folder of a model with one label. Raises UserError when it holds none."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging as transformers_logging

        from megatron_math.engine.hf import load_tokenizer_folder

        transformers_logging.disable_progress_bar()
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self._device = torch.device(accelerator.type if accelerator else "cpu")
        self._tokenizer = load_tokenizer_folder(folder)
        try:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True,
                dtype=torch.float32,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be loaded as a reward model: {error}") from error
        if model.config.num_labels != 1:
            raise UserError(
                f"{folder} gives {model.config.num_labels} numbers a text; a reward model with one "
                f"is needed (num_labels: 1)"
            )
        self._model = model.to(self._device).eval()

    def scores(self, pairs: Sequence[tuple[str, str]], *, chat: bool = False) -> list[float]:
        """Of each (question, answer). chat: as turns, by the tokenizer's template; else one text.

        Texts longer than the model holds lose their beginning.
        """
        import torch

        found = []
        with torch.inference_mode():
            for question, answer in pairs:  # alone: where a padded row is read differs by family
                ids = self._encode(question, answer, chat)
                row_1S = torch.tensor([ids], device=self._device)
                logits_11 = self._model(input_ids=row_1S).logits
                found.append(float(logits_11[0, 0]))
        return found

    def _encode(self, question: str, answer: str, chat: bool) -> list[int]:
        most = self._model.config.max_position_embeddings
        if not chat:
            return self._tokenizer(question + answer)["input_ids"][-most:]
        turns = [Message("user", question)._asdict(), Message("assistant", answer)._asdict()]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"][-most:]
