"""Train a SentencePiece BPE model on a corpus, for small models and rehearsals.

Nothing is normalised, no space is added or dropped, digits are single pieces, bytes stand in for
rare characters: every text comes back exactly from its ids (except U+2581, SentencePiece's space).
"""

import heapq
import io
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3
SMALLEST_VOCABULARY = 4 + 256 + 1  # special ids, bytes, one piece
LONGEST_LINE_BYTES = 4096  # longer lines are cut; a cut costs at most one pair of neighbours


def train_sentencepiece(
    texts: Iterable[str],
    model_path: Path,
    vocab_size: int,
    *,
    sample_bytes: int = 32_000_000,
    character_coverage: float = 0.9995,
    seed: int = 0,
) -> None:
    """Train on at most `sample_bytes` of UTF-8, whole texts drawn evenly, and write `model_path`.

    vocab_size counts everything: unk 0, bos 1, eos 2, pad 3, 256 bytes, then pieces. The same texts
    and seed give the same bytes. character_coverage: share of the sample's characters that get
    a piece of their own; the rest are spelt in bytes. Raises UserError when the texts are empty or
    do not hold enough for that many pieces.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f"vocab_size {vocab_size} is too small: 4 special tokens and 256 bytes come first; "
            f"give {SMALLEST_VOCABULARY} or more"
        )
    sample = draw_sample(texts, sample_bytes, seed)
    if not any(text.strip() for text in sample):
        raise UserError("there is no text to train a tokenizer on")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * LONGEST_LINE_BYTES,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_id=PAD_ID,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"no SentencePiece model of {vocab_size} pieces could be trained on "
            f"{sum(map(len, sample))} characters: {reason}"
        ) from None
    with atomic_open(model_path, "wb") as file:
        file.write(model.getvalue())


def draw_sample(texts: Iterable[str], sample_bytes: int, seed: int) -> list[str]:
    """Whole texts, evenly drawn, in their order, together at most `sample_bytes` of UTF-8.

    One pass in bounded memory: every text gets a random number, those with the smallest stay. A
    text larger than the bound is cut to it.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, str]] = []  # heap, largest random number first
    total_bytes = 0
    for position, text in enumerate(texts):
        heapq.heappush(kept, (-rng.random(), position, text))
        total_bytes += len(text.encode("utf-8"))
        while total_bytes > sample_bytes and len(kept) > 1:
            total_bytes -= len(heapq.heappop(kept)[2].encode("utf-8"))
    sample = [text for _, _, text in sorted(kept, key=lambda item: item[1])]
    if total_bytes > sample_bytes:
        sample = [sample[0].encode("utf-8")[:sample_bytes].decode("utf-8", errors="ignore")]
    return sample


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines for the trainer, which would otherwise take long ones as noise and skip them."""
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), LONGEST_LINE_BYTES):
                yield line[start : start + LONGEST_LINE_BYTES]
