"""SentencePieceTokenizer: a SentencePiece .model (BPE or unigram), and its tokenizer.json form.

SentencePiece stores a space as U+2581, so a text that holds that character comes back with a space
in its place.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2, sentencepiece_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as Engine

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, write_json
from megatron_math.tokenizer.conversion import write_converted
from megatron_math.tokenizer.encoder import Int64s
from megatron_math.tokenizer.interface import UNKNOWN_BYTES, Tokenizer, fingerprint_of
from megatron_math.tokenizer.special_tokens import (
    find_special_tokens,
    refuse_missing_eod,
    template_entry,
)

SPACE = "\u2581"
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # SentencePiece.Type
TEXTUAL = (NORMAL, USER_DEFINED)  # pieces that text can match
NEVER = -1e6  # score that keeps a text like "<0x0A>" from being read as the piece of that name


class SentencePieceTokenizer(Tokenizer):
    """Raises UserError when the file is no SentencePiece model or defines no EOS."""

    kind = "SentencePieceTokenizer"
    library = "sentencepiece"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path.read_bytes()
        self._engine = SentencePieceProcessor()
        try:
            self._engine.LoadFromSerializedProto(self._bytes)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{path} is not a SentencePiece model: {error}") from None
        self.size = self._engine.get_piece_size()
        special = find_special_tokens(path.parent, self._id_of)
        eod_id = self._engine.eos_id() if self._engine.eos_id() >= 0 else special.eod_id
        if eod_id is None:
            refuse_missing_eod(path)
        self.eod_id = eod_id
        self.bos_id = self._engine.bos_id() if self._engine.bos_id() >= 0 else special.bos_id
        self.adds_bos = bool(special.add_bos) and self.bos_id is not None
        self.fingerprint = fingerprint_of(
            hashlib.sha256(self._bytes).hexdigest(),
            eod_id=self.eod_id,
            bos_id=self.bos_id,
            adds_bos=self.adds_bos,
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._engine.encode(list(texts), out_type=int, num_threads=1)

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode(list(ids))

    def save(self, folder: Path) -> None:
        with atomic_open(folder / "tokenizer.model", "wb") as file:
            file.write(self._bytes)
        config = self._names() | {"add_bos_token": self.adds_bos}
        write_json(folder / "tokenizer_config.json", config | template_entry(self.path.parent))

    def save_hf(self, folder: Path) -> None:
        write_converted(folder, self, tokenizer_json_of(self._bytes, self.path), self._names())

    def engine_json(self) -> str:
        return tokenizer_json_of(self._bytes, self.path, names_as_ids=False).to_str()

    def with_names_as_ids(self) -> Tokenizer:
        from megatron_math.tokenizer.by_library import ConvertedTokenizer

        return ConvertedTokenizer(self, tokenizer_json_of(self._bytes, self.path))

    def special_names(self) -> dict[str, int]:
        return {p.piece: i for i, p in enumerate(self._proto.pieces) if p.type == CONTROL}

    def names_in_text(self) -> list[str]:
        kinds = (CONTROL, USER_DEFINED, UNKNOWN)
        return [piece.piece for piece in self._proto.pieces if piece.type in kinds]

    @cached_property
    def _proto(self) -> Any:
        return read_model(self._bytes)

    @cached_property
    def _token_bytes(self) -> Int64s | None:
        spec = self._proto.normalizer_spec
        if spec.precompiled_charsmap or spec.remove_extra_whitespaces:
            return None
        lengths = {BYTE: 1, UNKNOWN: UNKNOWN_BYTES, CONTROL: UNKNOWN_BYTES}
        return np.array(
            [
                lengths.get(piece.type, len(piece.piece.replace(SPACE, " ").encode("utf-8")))
                for piece in self._proto.pieces
            ],
            dtype=np.int64,
        )

    @property
    def _bytes_ahead(self) -> int:
        return int(self._proto.normalizer_spec.add_dummy_prefix)

    def _reference_ends(self, text: str) -> tuple[list[int], Int64s]:
        spelt = sentencepiece_pb2.SentencePieceText()  # type: ignore[attr-defined]
        spelt.ParseFromString(self._engine.encode(text, out_type="serialized_proto"))
        ends = np.array([piece.end for piece in spelt.pieces], dtype=np.int64)
        return [piece.id for piece in spelt.pieces], ends

    def _names(self) -> dict[str, str]:
        ids = {
            "eos_token": self.eod_id,
            "bos_token": self.bos_id,
            "pad_token": self._engine.pad_id(),
        }
        return {
            key: self._engine.id_to_piece(token_id)
            for key, token_id in ids.items()
            if token_id is not None and token_id >= 0
        }

    def _id_of(self, name: str) -> int | None:
        token_id = self._engine.piece_to_id(name)
        return token_id if self._engine.id_to_piece(token_id) == name else None


def read_model(model_bytes: bytes) -> Any:
    """The ModelProto that a .model file holds."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model_bytes)
    return proto


def tokenizer_json_of(model_bytes: bytes, path: Path, *, names_as_ids: bool = True) -> Engine:
    """The same tokenizer for the `tokenizers` library. UserError for models that have no such form.

    names_as_ids: the name of a control token in a text becomes its id, as transformers does it;
    SentencePiece itself reads such a name as plain letters. The unknown token is not made special:
    WikiText is full of "<unk>".
    """
    proto = read_model(model_bytes)
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    if any(kind == UNUSED for _, _, kind in pieces):
        raise UserError(f"{path} has UNUSED pieces, which a tokenizer.json cannot express")
    trainer = proto.trainer_spec
    model: models.Model
    if trainer.model_type == BPE:
        unknown = next(piece for piece, _, kind in pieces if kind == UNKNOWN)
        model = models.BPE(
            vocab={piece: index for index, (piece, _, _) in enumerate(pieces)},
            merges=_merges(pieces),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    elif trainer.model_type == UNIGRAM:
        model = models.Unigram(
            [(piece, score if kind in TEXTUAL else NEVER) for piece, score, kind in pieces],
            unk_id=trainer.unk_id,
            byte_fallback=trainer.byte_fallback,
        )
    else:
        raise UserError(f"{path} is neither a BPE nor a unigram model; it cannot be converted")
    engine = Engine(model)
    engine.normalizer = _normalizer(proto.normalizer_spec)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    engine.decoder = decoders.Sequence(steps)
    for piece, _, kind in pieces:
        if kind == CONTROL and names_as_ids:
            engine.add_special_tokens([AddedToken(piece, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            engine.add_tokens([AddedToken(piece, special=False, normalized=False)])
    return engine


def _merges(pieces: list[tuple[str, float, int]]) -> list[tuple[str, str]]:
    """Every pair that makes a piece, best score first.

    SentencePiece joins any two neighbours whose union is a piece, so all splits of a piece count.
    Of equal scores (runs of spaces that were added by hand) it takes the leftmost pair, so that
    a run grows from its left end: the pair with the longest left part comes first.
    """
    mergeable = {piece: index for index, (piece, _, kind) in enumerate(pieces) if kind == NORMAL}
    ranked = []
    for piece, index in mergeable.items():
        for cut in range(1, len(piece)):
            left, right = mergeable.get(piece[:cut]), mergeable.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((-pieces[index][1], -cut, left, right))
    ranked.sort()
    return [(pieces[left][0], pieces[right][0]) for *_, left, right in ranked]


def _normalizer(spec: Any) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)
