r"""Does this GPU compute what a CPU computes, and how fast is a training step on it?

python tools/gpu_check.py --out gpu_check --page docs/benchmarks/gpu.md
"""

import argparse
import sys
from pathlib import Path

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_FAILED, UserError
from megatron_math.base.log import set_up_logging
from megatron_math.gpu_check.run import check, has_faults
from megatron_math.gpu_check.settings import PARTS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Parity with a CPU, tokens/s and memory of this GPU; without one the same in "
        "miniature. Needs no network. Exit code 1 when something is wrong."
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("gpu_check"), help="folder of gpu_check.json and logs")
    add("--page", type=Path, help="also write the result as this page")
    add("--minutes", type=float, default=7.5, help="for everything; default 7.5")
    add("--parts", nargs="+", default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    add("--miniature", action="store_true", help="tiny shapes on a GPU, too")
    args = parser.parse_args(arguments)
    set_up_logging()
    try:
        result = check(
            args.out, minutes=args.minutes, parts=args.parts, page_path=args.page,
            miniature=True if args.miniature else None,
        )  # fmt: skip
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    print(args.out / "gpu_check.json")
    return EXIT_FAILED if has_faults(result) else 0


if __name__ == "__main__":
    sys.exit(main())
