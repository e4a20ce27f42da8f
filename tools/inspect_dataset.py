r"""What is in a Megatron index: counts, tokenizer, documents as text.

python tools/inspect_dataset.py data/corpus_text_document --document 7
"""

import sys

import typer

from megatron_math.base.errors import EXIT_BAD_INPUT, UserError
from megatron_math.base.log import set_up_logging
from megatron_math.inspect.app import index


def main() -> None:
    set_up_logging()
    try:
        typer.run(index)
    except UserError as error:
        print(f"inspect_dataset.py: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
