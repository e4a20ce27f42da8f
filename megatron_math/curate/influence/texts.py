"""Records as token ids, with the tokens that carry loss. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from megatron_math.base.records import PROMPT_TEMPLATE, Record
from megatron_math.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """Ids of a text with its end, and the first one (1 or later) that carries loss."""

    ids: np.ndarray
    first: int = 1

    @property
    def num_counted(self) -> int:
        return len(self.ids) - self.first


def read_texts(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    loss: Literal["all", "solution"],
) -> list[Text]:
    """A text of at most max_tokens + 1 ids for each record, as training would have it alone."""
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    whole = tokenizer.encode_batch([record.render() for record in records])
    prompts: list[list[int]] = [[] for _ in records]
    if loss == "solution":
        asked = [n for n, record in enumerate(records) if record.text is None]
        texts = [PROMPT_TEMPLATE.format(problem=records[n].problem) for n in asked]
        for n, ids in zip(asked, tokenizer.encode_batch(texts), strict=True):
            prompts[n] = ids
    return [
        Text(
            np.array([*bos, *ids, tokenizer.eod_id][: max_tokens + 1], dtype=np.int64),
            max(1, len(bos) + _num_equal(ids, prompt)),
        )
        for ids, prompt in zip(whole, prompts, strict=True)
    ]


def _num_equal(one: Sequence[int], other: Sequence[int]) -> int:
    """Ids that both begin with: a token that spans prompt and solution belongs to the solution."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
