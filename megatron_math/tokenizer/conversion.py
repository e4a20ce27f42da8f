"""Write a converted tokenizer as a folder for transformers, and recognise it when it comes back.

Writes tokenizer.json and tokenizer_config.json; the latter keeps the fingerprint of the original,
so that an index made with the .model and one made with its conversion are known to agree.
"""

import hashlib
from pathlib import Path

from tokenizers import Tokenizer as Engine
from tokenizers.processors import TemplateProcessing

from megatron_math.base.errors import UserError
from megatron_math.base.files import sha256_file, write_json, write_text
from megatron_math.tokenizer.interface import Tokenizer
from megatron_math.tokenizer.sample import SAMPLE
from megatron_math.tokenizer.special_tokens import read_object, template_entry

ORIGIN_KEY = "megatron_math_origin"


def write_converted(
    folder: Path, original: Tokenizer, engine: Engine, names: dict[str, str]
) -> None:
    """Write `engine` as the conversion of `original`; `names`: eos_token, bos_token and the like.

    Raises UserError, before anything is written, when the two differ on SAMPLE.
    """
    _require_same_ids(original, engine)
    if original.adds_bos and original.bos_id is not None:
        bos = names["bos_token"]
        engine.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, original.bos_id)]
        )
    text = engine.to_str(pretty=False)
    write_text(folder / "tokenizer.json", text)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "add_bos_token": original.adds_bos,
        "clean_up_tokenization_spaces": False,
        **template_entry(original.path.parent),
        ORIGIN_KEY: {
            "kind": original.kind,
            "fingerprint": original.fingerprint,
            "tokenizer_json_sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
            "special": [original.eod_id, original.bos_id, original.adds_bos],
        },
    }
    write_json(folder / "tokenizer_config.json", config)


def origin_fingerprint(tokenizer_json: Path, special: list[int | bool | None]) -> str | None:
    """The fingerprint of what this file was converted from; None if it is no such file any more.

    special: eod_id, bos_id, adds_bos as read now.
    """
    origin = read_object(tokenizer_json.parent / "tokenizer_config.json").get(ORIGIN_KEY)
    if origin is None or origin["special"] != special:
        return None
    same = origin["tokenizer_json_sha256"] == sha256_file(tokenizer_json)
    return origin["fingerprint"] if same else None


def _require_same_ids(original: Tokenizer, engine: Engine) -> None:
    converted = engine.encode_batch_fast(list(SAMPLE), add_special_tokens=False)
    for text, ours, theirs in zip(SAMPLE, original.encode_batch(SAMPLE), converted, strict=True):
        if ours != theirs.ids:
            raise UserError(
                f"{original.path} has no exact tokenizer.json form here: {text[:60]!r} is "
                f"{ours[:12]} in the original and {theirs.ids[:12]} in the conversion; nothing was "
                f"written. Export with the tokenizer.json that was published with the model"
            )
