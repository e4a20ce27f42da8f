"""One corpus to one index a JSON key, without a road: what tools/preprocess_data.py does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.index.blocks import BLOCK_BYTES, MAX_LINE_BYTES, find_files
from megatron_math.index.building import Output
from megatron_math.index.encode import Job, encode_files, reusable_sidecar
from megatron_math.index.journal import beside
from megatron_math.index.merge import find_shards, merge_quarantines, merge_shards
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Shard
from megatron_math.tokenizer import load_tokenizer


def preprocess(
    inputs: list[str],
    json_keys: list[str],
    output_prefix: Path,
    *,
    tokenizer_type: str,
    tokenizer_model: Path,
    append_eod: bool,
    recipe: Recipe | None = None,
    engine: str = "auto",
    shard: Shard | None = None,
    num_workers: int = 1,
    max_bad: float = 0.001,
    max_line_bytes: int = MAX_LINE_BYTES,
    log_interval: int = 10_000,
) -> list[dict[str, Any]]:
    """Write `<output_prefix>_<key>_document.{bin,idx,ids,json}` for every key; returns sidecars.

    inputs: files, folders, glob patterns. recipe: one index `<output_prefix>_text_document` of it,
    in place of the keys. shard: that part alone, `..._document.shard-I-of-N.*`; one that is whole
    already is left as it is. Raises UserError as `encode_files` does.
    """
    outputs = outputs_of(json_keys, output_prefix, recipe)
    for name, value, least in (
        ("--workers", num_workers, 1),
        ("--log-interval", log_interval, 1),
        ("--max-line-bytes", max_line_bytes, BLOCK_BYTES),
    ):
        if value < least:
            raise UserError(f"{name} must be {least} or more, found {value}")
    if not 0 <= max_bad <= 1:
        raise UserError(f"--max-bad is a share of all lines, from 0 to 1; found {max_bad}")
    files = find_files(inputs, "--input")
    suffix = shard.suffix if shard else ""
    job = Job(
        path=beside(output_prefix, suffix),
        files=files,
        outputs=[replace(each, prefix=beside(each.prefix, suffix)) for each in outputs],
        tokenizer=load_tokenizer(tokenizer_model, tokenizer_type, with_encoder=engine == "auto"),
        quarantine=beside(output_prefix, f"_quarantine{suffix}.jsonl"),
        append_eod=append_eod,
        engine=engine,
        max_line_bytes=max_line_bytes,
        shard=shard,
    )
    if shard is not None:
        there = [reusable_sidecar(job, output) for output in job.outputs]
        if all(there):
            return [sidecar for sidecar in there if sidecar]
    return encode_files(
        job,
        num_workers=num_workers,
        max_bad=max_bad,
        log_interval=log_interval,
        label=job.path.name,
    )


def merge(
    json_keys: list[str], output_prefix: Path, recipe: Recipe | None = None
) -> list[dict[str, Any]]:
    """Make the final indexes of all shards; returns their sidecars. UserError where one lacks."""
    prefixes = [output.prefix for output in outputs_of(json_keys, output_prefix, recipe)]
    shards = [find_shards(prefix) for prefix in prefixes]
    sidecars = [merge_shards(*each) for each in zip(prefixes, shards, strict=True)]
    suffixes = [shard.name.removeprefix(prefixes[0].name) for shard in shards[0]]
    quarantines = [beside(output_prefix, f"_quarantine{suffix}.jsonl") for suffix in suffixes]
    merge_quarantines(shards[0], quarantines, beside(output_prefix, "_quarantine.jsonl"))
    return sidecars


def outputs_of(json_keys: list[str], output_prefix: Path, recipe: Recipe | None) -> list[Output]:
    if recipe is not None:
        return [Output(beside(output_prefix, "_text_document"), recipe)]
    if len(set(json_keys)) != len(json_keys):
        raise UserError(f"--json-keys names a key twice: {' '.join(json_keys)}")
    return [Output(beside(output_prefix, f"_{key}_document"), Recipe(key=key)) for key in json_keys]


def read_template(text: str) -> str | None:
    """The template; None, which is the project's own, for 'default'. UserError for a bad one."""
    if text == "default":
        return None
    from megatron_math.base.config import parse_section
    from megatron_math.index.config import SourceConfig

    return parse_section(SourceConfig, {"path": "-", "template": text}, "--template").template
