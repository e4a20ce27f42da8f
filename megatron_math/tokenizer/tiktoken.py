"""TikTokenizer: a tiktoken rank file with Llama 3's pattern and special tokens.

Llama 3 puts 256 special tokens behind the ranks: <|begin_of_text|>, <|end_of_text|>, two reserved
ones, then ten named or reserved ones and more reserved ones. Only the first two matter here, and
a special token's name inside a text is plain text.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiktoken import Encoding
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Engine

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, write_json
from megatron_math.tokenizer.conversion import write_converted
from megatron_math.tokenizer.interface import Tokenizer, fingerprint_of
from megatron_math.tokenizer.special_tokens import find_special_tokens

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_SPECIAL = 256
NAMED_SPECIAL = {  # position behind the ranks -> name, as of Llama 3.1; the others are reserved
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    4: "<|finetune_right_pad_id|>",
    5: "<|step_id|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
    10: "<|python_tag|>",
    11: "<|image|>",
}


class TikTokenizer(Tokenizer):
    """Raises UserError when the file is no rank file."""

    kind = "TikTokenizer"
    bos_id: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path.read_bytes()
        self._ranks = read_ranks(self._bytes, path)
        self.special = special_names(len(self._ranks))
        self._engine = Encoding(
            name=path.name,
            pat_str=LLAMA3_PATTERN,
            mergeable_ranks=self._ranks,
            special_tokens={name: index for index, name in self.special.items()},
        )
        self.size = len(self._ranks) + NUM_SPECIAL
        self.bos_id, self.eod_id = len(self._ranks), len(self._ranks) + 1
        names = {name: index for index, name in self.special.items()}
        self.adds_bos = bool(find_special_tokens(path.parent, names.get).add_bos)
        self.fingerprint = fingerprint_of(
            hashlib.sha256(self._bytes).hexdigest(),
            eod_id=self.eod_id,
            bos_id=self.bos_id,
            adds_bos=self.adds_bos,
        )

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [row.tolist() for row in map(self._encode, texts)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray]:
        rows = [self._encode(text) for text in texts]
        lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
        return np.concatenate([np.empty(0, np.int32), *rows], dtype=np.int32), lengths

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode([token for token in ids if token < self.bos_id])

    def save(self, folder: Path) -> None:
        with atomic_open(folder / "tokenizer.model", "wb") as file:
            file.write(self._bytes)
        write_json(
            folder / "tokenizer_config.json", {**self._names(), "add_bos_token": self.adds_bos}
        )

    def save_hf(self, folder: Path) -> None:
        write_converted(folder, self, tokenizer_json_of(self._ranks, self.special), self._names())

    def _encode(self, text: str) -> npt.NDArray:
        # A run of a million spaces overflows tiktoken's regular expression (0.14, 2026-11-21), as
        # an error or as a Rust panic, which is a bare BaseException.
        try:
            return self._engine.encode_to_numpy(text, disallowed_special=())
        except BaseException as error:  # noqa: BLE001
            if type(error).__name__ != "PanicException" and "Regex error" not in str(error):
                raise
        encoding = self._tokenizer_json.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.uint32)

    @cached_property
    def _tokenizer_json(self) -> Engine:
        engine = tokenizer_json_of(self._ranks, self.special)
        engine.encode_special_tokens = True  # their names are plain text here
        return engine

    def _names(self) -> dict[str, str]:
        return {"eos_token": self.special[self.eod_id], "bos_token": self.special[self.bos_id]}


def special_names(num_ranks: int) -> dict[int, str]:
    """id -> name of Llama 3's 256 special tokens behind `num_ranks` ordinary ones."""
    names, num_reserved = {}, 0
    for position in range(NUM_SPECIAL):
        if position in NAMED_SPECIAL:
            names[num_ranks + position] = NAMED_SPECIAL[position]
        else:
            names[num_ranks + position] = f"<|reserved_special_token_{num_reserved}|>"
            num_reserved += 1
    return names


def read_ranks(data: bytes, path: Path) -> dict[bytes, int]:
    """Parse `base64 rank` lines. UserError unless the ranks are 0 to n - 1, once each."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise UserError(
                f"{path}, line {number}: a tiktoken file holds 'base64 rank' lines, "
                f"found {line[:40]!r}"
            ) from None
    if sorted(ranks.values()) != list(range(len(ranks))) or not ranks:
        raise UserError(
            f"{path}: the ranks of its {len(ranks)} tokens are not 0 to {len(ranks) - 1}"
        )
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise UserError(f"{path}: no token for the single bytes {missing[:8]}; text would be lost")
    return ranks


def tokenizer_json_of(ranks: dict[bytes, int], special: dict[int, str]) -> Engine:
    """The same tokenizer for the `tokenizers` library."""
    letters = _byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[value] for value in token)

    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                merges.append((rank, left, right, token[:cut], token[cut:]))
    merges.sort()
    model = models.BPE(
        vocab={spell(token): rank for token, rank in ranks.items()},
        merges=[(spell(left), spell(right)) for *_, left, right in merges],
        ignore_merges=True,  # tiktoken takes a whole word that has a rank before it looks at merges
    )
    engine = Engine(model)
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(
        [AddedToken(special[i], special=True, normalized=False) for i in sorted(special)]
    )
    return engine


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE files write for each byte value.

    Printable Latin-1 bytes stand for themselves, the others are numbered from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {
        value: chr(0x100 + index) for index, value in enumerate(others)
    }
