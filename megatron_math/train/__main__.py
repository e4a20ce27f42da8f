"""One rank: `python -m megatron_math.train run.yaml [section.key=value ...]` under torchrun, srun
or `megatron-math train`. Exit codes as everywhere: 0, 1, 2, 75."""

import argparse
import os
import sys
from collections.abc import Sequence

from megatron_math.base.errors import EXIT_BAD_INPUT, EXIT_STOPPED, StoppedOnRequest, UserError
from megatron_math.base.log import log, set_up_logging
from megatron_math.base.road import Road
from megatron_math.device.start import launched_ranks
from megatron_math.train.run import run
from megatron_math.train.stop import stop_while_loading


def read_road(arguments: Sequence[str] | None = None) -> Road:
    """The road that a rank is given, on its command line if not here."""
    parser = argparse.ArgumentParser(prog="python -m megatron_math.train", description=__doc__)
    parser.add_argument("yaml", help="the road file")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--runs", default="runs", help="folder of run folders (default: runs)")
    given = parser.parse_intermixed_args(arguments)
    return Road.load(given.yaml, given.overrides, given.runs)


def main(arguments: Sequence[str] | None = None) -> int:
    rank = (launched_ranks() or (0, 1, 0))[0]
    set_up_logging(rank=rank)
    stop_while_loading()
    try:
        run(read_road(arguments))
    except UserError as error:
        print(f"megatron-math train (rank {rank}): {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT
    except StoppedOnRequest as stopped:
        log.info("%s", stopped)
        return EXIT_STOPPED
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads may abort a normal exit after a peer has gone
