"""The mean loss of whole texts under a model in a Hugging Face folder. Loads torch when opened.

Shapes: B texts of a batch, S tokens of the longest, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal


class TextLosses:
    """A causal language model that reads texts. Raises UserError when the folder holds none."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: Literal["fp32", "bf16"] = "fp32",
        max_tokens: int = 2048,
        batch_tokens: int = 16384,
    ) -> None:
        import torch
        from transformers.utils import logging as transformers_logging

        from megatron_math.engine.hf import load_folder

        transformers_logging.disable_progress_bar()
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self._device = torch.device(accelerator.type if accelerator else "cpu")
        model, self._tokenizer = load_folder(folder, dtype)
        self._model = model.to(self._device).eval()
        self._max_tokens = min(max_tokens, model.config.max_position_embeddings)
        self._batch_tokens = batch_tokens

    def losses(self, texts: Sequence[str]) -> list[float | None]:
        """Mean negative log-likelihood of a text's tokens after its first, in nats; None for a text
        of fewer than two tokens. Longer texts are cut at `max_tokens`."""
        ids = [row[: self._max_tokens] for row in self._tokenizer(list(texts))["input_ids"]]
        found: list[float | None] = [None] * len(texts)
        for batch in self._batches([len(row) for row in ids]):
            for number, loss in zip(batch, self._read([ids[n] for n in batch]), strict=True):
                found[number] = loss
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of texts of like length, at most so many tokens together, padding included."""
        batch: list[int] = []
        for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
            if lengths[number] < 2:
                break
            if batch and lengths[batch[0]] * (len(batch) + 1) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _read(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        longest = max(map(len, rows))
        ids_BS = torch.zeros((len(rows), longest), dtype=torch.long)
        mask_BS = torch.zeros_like(ids_BS)
        for place, row in enumerate(rows):
            ids_BS[place, : len(row)] = torch.tensor(row)
            mask_BS[place, : len(row)] = 1
        ids_BS, mask_BS = ids_BS.to(self._device), mask_BS.to(self._device)
        with torch.inference_mode():
            logits_BSV = self._model(input_ids=ids_BS, attention_mask=mask_BS).logits
            losses_BS = torch.nn.functional.cross_entropy(
                logits_BSV[:, :-1].float().transpose(1, 2), ids_BS[:, 1:], reduction="none"
            )
            counted_BS = mask_BS[:, 1:]
            return ((losses_BS * counted_BS).sum(1) / counted_BS.sum(1)).tolist()
