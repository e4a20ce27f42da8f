"""HuggingFaceTokenizer: a tokenizer.json run by the `tokenizers` library.

Text is encoded as transformers does it: a special token's name inside a text becomes its id.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Engine

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, write_json
from megatron_math.tokenizer.by_library import LibraryTokenizer
from megatron_math.tokenizer.conversion import origin_fingerprint
from megatron_math.tokenizer.interface import fingerprint_of
from megatron_math.tokenizer.special_tokens import (
    find_special_tokens,
    read_object,
    refuse_missing_eod,
)

# Taken for EOD when no file names one and exactly one of them is a special token of the vocabulary.
USUAL_EOD_NAMES = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>")
KEPT_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


class HuggingFaceTokenizer(LibraryTokenizer):
    """Raises UserError when the file is no tokenizer.json or no EOD can be found."""

    kind = "HuggingFaceTokenizer"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path.read_bytes()
        self._names = [t.content for t in self._engine.get_added_tokens_decoder().values()]
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        self.size = max(vocabulary.values()) + 1
        special = find_special_tokens(path.parent, self._engine.token_to_id)
        eod_id = special.eod_id if special.eod_id is not None else self._usual_eod()
        if eod_id is None:
            refuse_missing_eod(path)
        for name, token_id in (("eos", eod_id), ("bos", special.bos_id)):
            if token_id is not None and self._engine.id_to_token(token_id) is None:
                raise UserError(
                    f"{path}: the files beside it give {token_id} as {name}_token_id, but its "
                    f"vocabulary has no such id (highest {self.size - 1})"
                )
        self.eod_id, self.bos_id = eod_id, special.bos_id
        opening = self._engine.encode("", add_special_tokens=True).ids[:1]
        asked = special.add_bos if special.add_bos is not None else opening == [special.bos_id]
        self.adds_bos = bool(asked) and special.bos_id is not None
        special_ids = [self.eod_id, self.bos_id, self.adds_bos]
        self.fingerprint = origin_fingerprint(path, special_ids) or fingerprint_of(
            hashlib.sha256(self._bytes).hexdigest(),
            eod_id=self.eod_id,
            bos_id=self.bos_id,
            adds_bos=self.adds_bos,
        )

    @cached_property
    def _engine(self) -> Engine:  # type: ignore[override]  # set by no one
        try:
            engine = Engine.from_buffer(self._bytes)
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise UserError(f"{self.path} is not a tokenizer.json: {error}") from None
        # A saved truncation would cut documents, a saved padding would add tokens, both in silence.
        engine.no_truncation()
        engine.no_padding()
        return engine

    def __getstate__(self) -> dict[str, Any]:
        """All but what the library and the engines have loaded."""
        kept = ("path", "_bytes", "_names", "size", "eod_id", "bos_id", "adds_bos", "fingerprint")
        return {name: self.__dict__[name] for name in kept}

    def names_in_text(self) -> list[str]:
        return self._names

    def decode(self, ids: Sequence[int]) -> str:
        return self._engine.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        config = read_object(self.path.parent / "tokenizer_config.json")
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        for key, token_id in (("eos_token", self.eod_id), ("bos_token", self.bos_id)):
            if token_id is not None and config.get(key) is None:
                config[key] = self._engine.id_to_token(token_id)
        with atomic_open(folder / "tokenizer.json", "wb") as file:
            file.write(self._bytes)
        write_json(folder / "tokenizer_config.json", config)
        for name in KEPT_FILES:
            source = self.path.parent / name
            if source.is_file():
                with atomic_open(folder / name, "wb") as file:
                    file.write(source.read_bytes())

    def save_hf(self, folder: Path) -> None:
        self.save(folder)

    def _usual_eod(self) -> int | None:
        added = self._engine.get_added_tokens_decoder()
        found = [i for i, t in added.items() if t.special and t.content in USUAL_EOD_NAMES]
        return found[0] if len(found) == 1 else None
