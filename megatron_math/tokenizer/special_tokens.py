"""What the files beside a tokenizer say: which tokens end and begin a document, chat template.

Reads tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json of the
tokenizer's folder, in this order; the first that names a token decides.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from megatron_math.base.errors import UserError

NAME_FILES = ("tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILE = "chat_template.jinja"
ID_FILES = ("generation_config.json", "config.json")


@dataclass(frozen=True)
class SpecialTokens:
    """eod, bos: ids, None where nothing names one. add_bos: None where nothing says."""

    eod_id: int | None
    bos_id: int | None
    add_bos: bool | None


def find_special_tokens(folder: Path, id_of: Callable[[str], int | None]) -> SpecialTokens:
    """Look through the files of `folder`; `id_of` gives the id of a token's name, or None.

    Raises UserError when a file names a token that the vocabulary does not have.
    """
    add_bos = read_object(folder / "tokenizer_config.json").get("add_bos_token")
    return SpecialTokens(
        eod_id=_find(folder, "eos_token", id_of),
        bos_id=_find(folder, "bos_token", id_of),
        add_bos=add_bos,
    )


def refuse_missing_eod(path: Path) -> NoReturn:
    raise UserError(
        f"{path}: nothing says which token ends a document (EOD). Put a file "
        f"{path.parent / 'tokenizer_config.json'} beside it that holds "
        '{"eos_token": "NAME"}, where NAME is a token of its vocabulary, such as </s>'
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; {} when there is no such file; UserError when it is not one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a JSON object is expected, found {type(value).__name__}")
    return value


def template_entry(folder: Path) -> dict[str, Any]:
    """{"chat_template": what the files of `folder` say}, as tokenizer_config.json has it, or {}."""
    if (folder / TEMPLATE_FILE).is_file():
        return {"chat_template": (folder / TEMPLATE_FILE).read_text(encoding="utf-8")}
    source = read_object(folder / "tokenizer_config.json").get("chat_template")
    return {} if source is None else {"chat_template": source}


def name_in(value: Any) -> str | None:
    """The name in an entry such as eos_token: "</s>", or an AddedToken {"content": "</s>", ...}."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _find(folder: Path, key: str, id_of: Callable[[str], int | None]) -> int | None:
    for name in NAME_FILES:
        token = name_in(read_object(folder / name).get(key))
        if token is not None:
            found = id_of(token)
            if found is None:
                raise UserError(
                    f"{folder / name}: {key} is {token!r}, which is not in the vocabulary"
                )
            return found
    for name in ID_FILES:
        value = read_object(folder / name).get(f"{key}_id")
        if isinstance(
            value, list
        ):  # several ids may end a generation; the first is the model's EOS
            value = value[0] if value else None
        if isinstance(value, int):
            return value
    return None
