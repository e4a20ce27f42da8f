r"""Documents to Megatron `.bin`/`.idx`, with Megatron-LM's flags.

python tools/preprocess_data.py --input corpus.jsonl --output-prefix data/corpus \
    --tokenizer-type SentencePieceTokenizer --tokenizer-model tokenizer.model \
    --append-eod --workers 8
"""

import argparse
import sys
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import set_up_logging
from megatron_math.index.preprocess import preprocess
from megatron_math.tokenizer import KINDS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Tokenize documents into <prefix>_<key>_document.{bin,idx,ids,json}."
    )
    add = parser.add_argument
    add(
        "--input",
        required=True,
        help="file, folder or quoted glob: .jsonl, .json, .gz, .zst, .parquet",
    )
    add("--json-keys", nargs="+", default=["text"], metavar="KEY", help="an index is made of each")
    add("--output-prefix", required=True, type=Path, help="path that the outputs' names begin with")
    add("--tokenizer-type", required=True, choices=list(KINDS))
    add("--tokenizer-model", required=True, type=Path, help="file, or folder that holds it")
    add("--append-eod", action="store_true", help="end every document with the end-of-document id")
    add("--workers", type=int, default=1, help="processes that tokenize (default 1)")
    add("--log-interval", type=int, default=1000, help="documents between log lines (default 1000)")
    args = parser.parse_args(arguments)
    set_up_logging()
    try:
        preprocess(
            args.input,
            args.json_keys,
            args.output_prefix,
            tokenizer_type=args.tokenizer_type,
            tokenizer_model=args.tokenizer_model,
            append_eod=args.append_eod,
            num_workers=args.workers,
            log_interval=args.log_interval,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
