r"""Documents to Megatron `.bin`/`.idx`, with Megatron-LM's flags.

python tools/preprocess_data.py --input corpus.jsonl --output-prefix data/corpus \
    --tokenizer-type SentencePieceTokenizer --tokenizer-model tokenizer.model \
    --append-eod --workers 8

A killed command is continued by the same command. On many machines: the same command in a SLURM
job array (or with --shard I/N for every I), then once more with --merge.
"""

import argparse
import os
import sys
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import log, set_up_logging
from megatron_math.index.blocks import MAX_LINE_BYTES
from megatron_math.index.preprocess import merge, preprocess, read_template
from megatron_math.index.recipes import Recipe
from megatron_math.index.units import Shard
from megatron_math.tokenizer import KINDS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Tokenize documents into <prefix>_<key>_document.{bin,idx,ids,json}."
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        metavar="PATH",
        help="files, folders or quoted globs: .jsonl, .json, .gz, .zst, .parquet",
    )
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="an index is made of each")
    add(
        "--template",
        help="make <prefix>_text_document of problem/solution records, with roles: words with "
        "{problem} and {solution}, or 'default'",
    )
    add(
        "--chat",
        action="store_true",
        help="make <prefix>_text_document of chats (the key 'messages'), with roles",
    )
    add("--output-prefix", required=True, type=Path, help="path that the outputs' names begin with")
    add("--tokenizer-type", choices=list(KINDS))
    add("--tokenizer-model", type=Path, help="file, or folder that holds it")
    add(
        "--append-eod",
        action=argparse.BooleanOptionalAction,
        help="end every document with the end-of-document id, or not; one of the two must be given",
    )
    add("--workers", type=int, help="threads that tokenize (default: the cores of this process)")
    add("--log-interval", type=int, default=1000, help="documents between log lines (default 1000)")
    add(
        "--max-bad",
        type=float,
        default=0.001,
        help="share of lines that may be unusable; they go to <prefix>_quarantine.jsonl "
        "(default 0.001)",
    )
    add(
        "--max-line-bytes",
        type=int,
        default=MAX_LINE_BYTES,
        help=f"longer lines are unusable (default {MAX_LINE_BYTES})",
    )
    add(
        "--engine",
        choices=["auto", "reference"],
        default="auto",
        help="auto: the fastest one that gives the same ids as the reference library",
    )
    add(
        "--shard",
        metavar="I/N",
        help="only this part, I from 0 (default: the task of the SLURM job array, if this is one)",
    )
    add("--merge", action="store_true", help="make the final index of all shards; reads no input")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    if args.chat and args.template is not None:
        raise UserError("--template and --chat are two ways to make one text; give one of them")
    recipe = Recipe(chat=True) if args.chat else None
    if args.template is not None:
        recipe = Recipe(template=read_template(args.template))
    if recipe is not None and args.json_keys != ["text"]:
        raise UserError("--json-keys has no effect beside --template or --chat; leave it out")
    if args.merge:
        merge(args.json_keys, args.output_prefix, recipe)
        return
    for name in ("input", "tokenizer_type", "tokenizer_model"):
        if getattr(args, name) is None:
            raise UserError(f"--{name.replace('_', '-')} is needed")
    if args.append_eod is None:
        raise UserError(
            "give --append-eod or --no-append-eod: without an end-of-document id behind every "
            "document, documents run into each other and a model never learns to stop"
        )
    shard = Shard.parse(args.shard) if args.shard is not None else Shard.of_slurm_array()
    if shard is not None and args.shard is None:
        log.info("shard %d of %d, as the SLURM job array says", shard.index, shard.count)
    preprocess(
        args.input,
        args.json_keys,
        args.output_prefix,
        tokenizer_type=args.tokenizer_type,
        tokenizer_model=args.tokenizer_model,
        append_eod=args.append_eod,
        recipe=recipe,
        engine=args.engine,
        shard=shard,
        num_workers=len(os.sched_getaffinity(0)) if args.workers is None else args.workers,
        max_bad=args.max_bad,
        max_line_bytes=args.max_line_bytes,
        log_interval=args.log_interval,
    )


def main(arguments: list[str] | None = None) -> int:
    set_up_logging()
    try:
        run(parse(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"{error}; the same command continues when that is mended", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # nobody needs the engines' tables taken apart, which takes 0.2 s
