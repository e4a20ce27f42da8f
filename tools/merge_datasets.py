r"""Several `.bin`/`.idx` indexes to one, streaming.

python tools/merge_datasets.py data/part1_text_document data/part2_text_document \
    --output-prefix data/all_text_document --verify
"""

import argparse
import sys
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import log, set_up_logging
from megatron_math.index.merge import merge_indexes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Merge indexes of one tokenizer, with lineage and roles: what indexing all "
        "their input, in this order, would write."
    )
    add = parser.add_argument
    add("prefixes", nargs="+", type=Path, metavar="PREFIX", help="path without .bin and .idx")
    add("--output-prefix", required=True, type=Path, help="likewise, of the index to write")
    add("--verify", action="store_true", help="compare inputs with their digests first (slower)")
    args = parser.parse_args(arguments)
    set_up_logging()
    try:
        merge_indexes(
            [without_suffix(prefix) for prefix in args.prefixes],
            args.output_prefix,
            verify=args.verify,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"{error}; start again when that is mended", file=sys.stderr)
        return EXIT_FAILED
    log.info("wrote %s", args.output_prefix)
    return 0


def without_suffix(prefix: Path) -> Path:
    return prefix.with_suffix("") if prefix.suffix in (".bin", ".idx") else prefix


if __name__ == "__main__":
    sys.exit(main())
