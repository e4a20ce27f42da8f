"""A small tokenizing job that writes its journal often: what the campaigns of faults run.

python tests/soak/small_index_job.py WORK OUT: WORK holds corpus*.jsonl and tokenizer.model, the
index is OUT/corpus_text_document. Exit codes are those of tools/preprocess_data.py.
"""

import os
import sys
from pathlib import Path
from typing import Any

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import set_up_logging
from megatron_math.index import blocks, encode
from megatron_math.index.journal import Journal
from megatron_math.index.preprocess import preprocess

BLOCK_BYTES = 1 << 13
JOURNAL_BYTES = 1 << 14


def forget_some_lines() -> None:
    """The negative control: what goes on after a kill begins 200 bytes too late."""
    read = Journal.read

    def read_wrongly(self: Journal) -> dict[str, Any] | None:
        entry = read(self)
        if entry and entry["progress"]["position"]["byte"]:
            entry["progress"]["position"]["byte"] += 200
        return entry

    Journal.read = read_wrongly  # type: ignore[method-assign]


def main(work: Path, out: Path) -> int:
    set_up_logging()
    if "SABOTAGE" in os.environ:
        forget_some_lines()
    blocks.BLOCK_BYTES = BLOCK_BYTES
    encode.JOURNAL_BYTES, encode.MOST_UNSAVED_BYTES = JOURNAL_BYTES, 2 * JOURNAL_BYTES
    try:
        preprocess(
            [str(work / "corpus*.jsonl")],
            ["text"],
            out / "corpus",
            tokenizer_type="SentencePieceTokenizer",
            tokenizer_model=work / "tokenizer.model",
            append_eod=True,
            engine="reference",
            num_workers=2,
            max_bad=0.5,
            max_line_bytes=1 << 21,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
