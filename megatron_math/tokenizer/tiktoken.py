"""TikTokenizer: a tiktoken rank file with Llama 3's pattern and special tokens.

Llama 3 puts 256 special tokens behind the ranks: <|begin_of_text|>, <|end_of_text|>, two reserved
ones, then ten named or reserved ones and more reserved ones. Only the first two matter here, and
a special token's name inside a text is plain text.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tiktoken import Encoding
from tokenizers import Tokenizer as Engine

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, write_json
from megatron_math.tokenizer.conversion import write_converted
from megatron_math.tokenizer.encoder import Int64s, Row
from megatron_math.tokenizer.gigatoken import is_panic
from megatron_math.tokenizer.interface import UNKNOWN_BYTES, Tokenizer, fingerprint_of
from megatron_math.tokenizer.special_tokens import find_special_tokens, template_entry

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
    library = "tiktoken"
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

    def encode_rows(self, texts: Sequence[str]) -> list[Row]:
        return [self._encode(text) for text in texts]

    def engine_json(self) -> str:
        return json_of(self._ranks, {})

    def with_names_as_ids(self) -> Tokenizer:
        from megatron_math.tokenizer.by_library import ConvertedTokenizer

        return ConvertedTokenizer(self, tokenizer_json_of(self._ranks, self.special))

    def special_names(self) -> dict[str, int]:
        return {name: index for index, name in self.special.items()}

    def names_in_text(self) -> list[str]:
        return list(self.special.values())

    @cached_property
    def _token_bytes(self) -> Int64s | None:
        lengths = np.full(self.size, UNKNOWN_BYTES, dtype=np.int64)
        lengths[list(self._ranks.values())] = [len(token) for token in self._ranks]
        return lengths

    def _reference_ends(self, text: str) -> tuple[list[int], Int64s]:
        ids = self._encode(text)
        assert self._token_bytes is not None
        return ids.tolist(), np.cumsum(self._token_bytes[ids])

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode([token for token in ids if token < self.bos_id])

    def save(self, folder: Path) -> None:
        with atomic_open(folder / "tokenizer.model", "wb") as file:
            file.write(self._bytes)
        config = self._names() | {"add_bos_token": self.adds_bos}
        write_json(folder / "tokenizer_config.json", config | template_entry(self.path.parent))

    def save_hf(self, folder: Path) -> None:
        write_converted(folder, self, tokenizer_json_of(self._ranks, self.special), self._names())

    def _encode(self, text: str) -> npt.NDArray[np.uint32]:
        # A run of a million spaces overflows tiktoken's regular expression (0.14, 2026-11-21), as
        # an error or as a Rust panic, which is a bare BaseException.
        try:
            return self._engine.encode_to_numpy(text, disallowed_special=())
        except BaseException as error:  # noqa: BLE001
            if not is_panic(error) and "Regex error" not in str(error):
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
    return Engine.from_str(json_of(ranks, special))


def json_of(ranks: dict[bytes, int], special: dict[int, str]) -> str:
    """The same tokenizer as a tokenizer.json; the names in `special` become ids in a text."""
    spelling = str.maketrans({chr(value): letter for value, letter in byte_letters().items()})
    spelt = {token.decode("latin-1").translate(spelling): rank for token, rank in ranks.items()}
    merges: list[str] = []  # all splits of a token into two others, both of low rank first
    for token in sorted(spelt, key=spelt.__getitem__):
        cuts = [cut for cut in range(1, len(token)) if token[:cut] in spelt]
        cuts = [cut for cut in cuts if token[cut:] in spelt]
        if len(cuts) > 1:
            cuts.sort(key=lambda cut: (spelt[token[:cut]], spelt[token[cut:]]))  # noqa: B023
        merges += [f"{token[:cut]} {token[cut:]}" for cut in cuts]
    added_tokens = [
        {
            "id": index, "content": special[index], "special": True, "normalized": False,
            "single_word": False, "lstrip": False, "rstrip": False,
        }
        for index in sorted(special)
    ]  # fmt: skip
    bytes_as_letters = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": LLAMA3_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_as_letters]},
        "post_processor": None,
        "decoder": bytes_as_letters | {"add_prefix_space": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # tiktoken takes a whole word that has a rank before it looks at merges
            "ignore_merges": True,
            "vocab": spelt,
            "merges": merges,
        },
    }
    return json.dumps(content, ensure_ascii=False)


def byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE files write for each byte value.

    Printable Latin-1 bytes stand for themselves, the others are numbered from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {
        value: chr(0x100 + index) for index, value in enumerate(others)
    }
