"""One batch of token ids on its way through a model, step by step. torch is imported when needed.

Shapes: B rows of the batch, S prompt tokens, T prompt and generated tokens, K last positions, V of
the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

from megatron_math.engine.draw import Draw, choose


class Decoder:
    """One left-padded batch on its way through a model of transformers, with its key-value cache.

    rows: for each row still in the batch, its number in the batch that it began with.
    """

    def __init__(
        self,
        model: Any,
        prompt_ids: list[list[int]],
        draws: Sequence[Draw | None],
        with_logprobs: bool,
        device: Any,
    ) -> None:
        import torch

        width = max(map(len, prompt_ids))
        self._model = model
        self._draws = draws
        self._with_logprobs = with_logprobs
        self._tokens_BS = torch.tensor([[0] * (width - len(i)) + i for i in prompt_ids]).to(device)
        lengths_B = torch.tensor([len(ids) for ids in prompt_ids])
        self._mask_BT = (torch.arange(width) >= width - lengths_B[:, None]).long().to(device)
        self._positions_BS = (self._mask_BT.cumsum(-1) - 1).clamp(min=0)
        self._cache = self._new_cache()
        self.rows = list(range(len(prompt_ids)))
        self.num_steps = 0

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def read(self, last: int = 1) -> Any:
        """Feed what is new; the logits of its `last` positions, [B, K, V]."""
        return self._model(
            input_ids=self._tokens_BS,
            attention_mask=self._mask_BT,
            position_ids=self._positions_BS,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits

    def step(self) -> list[tuple[int, float]]:
        """Feed what is new, return each row's next token and, if asked for, its log-probability."""
        import torch

        logits_BV = self.read()[:, -1]
        tokens_B = choose(logits_BV, [self._draws[row] for row in self.rows])
        self._tokens_BS = tokens_B[:, None]
        ones_B1 = self._mask_BT.new_ones(len(self.rows), 1)
        self._mask_BT = torch.cat([self._mask_BT, ones_B1], dim=1)
        self._positions_BS = self._positions_BS[:, -1:] + 1
        self.num_steps += 1
        logprobs = [0.0] * len(self.rows)
        if self._with_logprobs:
            logprobs_BV = logits_BV.float().log_softmax(-1)
            logprobs = logprobs_BV.gather(-1, self._tokens_BS)[:, 0].tolist()
        return list(zip(tokens_B.tolist(), logprobs, strict=True))

    def drop(self, done: set[int]) -> None:
        """Take finished rows out of the batch and out of the cache."""
        import torch

        keep = [i for i, row in enumerate(self.rows) if row not in done]
        index_B = torch.tensor(keep, device=self._tokens_BS.device)
        self._tokens_BS = self._tokens_BS[index_B]
        self._mask_BT = self._mask_BT[index_B]
        self._positions_BS = self._positions_BS[index_B]
        self._cache.batch_select_indices(index_B)
        self.rows = [self.rows[i] for i in keep]
