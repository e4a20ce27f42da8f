"""One corpus to one index a JSON key, without a road: what tools/preprocess_data.py does."""

from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.index.blocks import find_files
from megatron_math.index.documents import Recipe
from megatron_math.index.encode import Output, encode_files
from megatron_math.tokenizer import load_tokenizer


def preprocess(
    input_pattern: str,
    json_keys: list[str],
    output_prefix: Path,
    *,
    tokenizer_type: str,
    tokenizer_model: Path,
    append_eod: bool,
    num_workers: int,
    log_interval: int,
) -> list[dict[str, Any]]:
    """Write `<output_prefix>_<key>_document.{bin,idx,ids,json}` for every key; returns sidecars.

    input_pattern: a file, a folder or a glob pattern. Raises UserError as `encode_files` does.
    """
    if len(set(json_keys)) != len(json_keys):
        raise UserError(f"--json-keys names a key twice: {' '.join(json_keys)}")
    for name, value in (("--workers", num_workers), ("--log-interval", log_interval)):
        if value < 1:
            raise UserError(f"{name} must be 1 or more, found {value}")
    files = find_files(input_pattern, "--input")
    tokenizer = load_tokenizer(tokenizer_model, tokenizer_type)
    outputs = [
        Output(output_prefix.with_name(f"{output_prefix.name}_{key}_document"), Recipe(key=key))
        for key in json_keys
    ]
    return encode_files(
        files,
        outputs,
        tokenizer,
        append_eod=append_eod,
        num_workers=num_workers,
        log_interval=log_interval,
        label=output_prefix.name,
    )
