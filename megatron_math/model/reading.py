"""Reading a text token by token: what the layers keep, and the logits behind it.

Core's inference contexts want right-padded prompts of one length and memory for the longest answer.
Here the batch is padded on the left, every row reads the same positions, and keys and values grow.

Shapes: B rows, L positions that are new, T all so far, K last ones, N query heads, G key/value
heads, D head size, C = N*D, V vocabulary.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class KeyValues:
    """Keys and values of a left-padded batch, by layer. It goes where core has its attention mask.

    real_BT: which positions are tokens, of all that will have been read after the next call.
    """

    def __init__(self) -> None:
        self.real_BT = torch.empty(0, 0)
        self.num_read = 0
        self._kept: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def attend(
        self, layer: Any, parts_LBXD: Parts, window: int | None, scale: float | None
    ) -> torch.Tensor:
        """Attention of the new queries to all keys so far, [L, B, C]; the new ones are kept.

        layer: anything that tells the layers apart. window: tokens a query sees, itself included.
        """
        query_LBND, key_LBGD, value_LBGD = parts_LBXD
        if layer in self._kept:
            before = self._kept[layer]
            key_LBGD, value_LBGD = (
                torch.cat(pair) for pair in zip(before, (key_LBGD, value_LBGD), strict=True)
            )
        self._kept[layer] = key_LBGD, value_LBGD
        num_new, num_keys = query_LBND.shape[0], key_LBGD.shape[0]
        query, key, value = (
            part.permute(1, 2, 0, 3) for part in (query_LBND, key_LBGD, value_LBGD)
        )
        context_BNLD = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._mask(num_new, num_keys, window),
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return context_BNLD.permute(2, 0, 1, 3).flatten(2)

    def _mask(self, num_new: int, num_keys: int, window: int | None) -> torch.Tensor:
        """Boolean [B, 1, L, T]: real tokens up to a query, and itself, which may be padding."""
        keys_T = torch.arange(num_keys, device=self.real_BT.device)
        distance_LT = keys_T[num_keys - num_new :, None] - keys_T
        seen_LT = (distance_LT >= 0) & (distance_LT < (num_keys if window is None else window))
        return (seen_LT & self.real_BT[:, None].bool() | (distance_LT == 0))[:, None]

    def batch_select_indices(self, index_B: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        self._kept = {
            layer: (key[:, index_B], value[:, index_B])
            for layer, (key, value) in self._kept.items()
        }


def read_on(
    model: Any, tokens_BL: torch.Tensor, real_BT: torch.Tensor, so_far: KeyValues, last: int
) -> torch.Tensor:
    """Logits [B, K, V] of the `last` new positions, after the tokens that `so_far` holds.

    model: a whole `GPT` of the torch spec. real_BT: false where a position is padding.
    """
    so_far.real_BT = real_BT
    positions_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) + so_far.num_read
    rotary = model.rotary_pos_emb
    # Positions count from the row's first one, padding included: only distances matter.
    rotary.forward = functools.partial(type(rotary).forward, rotary, offset=so_far.num_read)
    # Of a long prompt the logits of all positions would not fit.
    hook = model.output_layer.register_forward_pre_hook(
        lambda _, inputs: (inputs[0][-last:], *inputs[1:])
    )
    try:
        logits_BKV = model(tokens_BL, positions_BL.expand(tokens_BL.shape), so_far)
    finally:
        del rotary.forward
        hook.remove()
    so_far.num_read += tokens_BL.shape[1]
    return logits_BKV[..., : model.model_config.vocab_size]
