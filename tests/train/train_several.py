"""Run by tests in several processes at once: train one road after another.

Usage: train_several.py JOBS.json, a list of [yaml, overrides, runs]. Loading the libraries takes
longer than the steps, so layouts of as many processes share them.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.train.run import run


def main() -> None:
    for yaml, overrides, runs in json.loads(Path(sys.argv[1]).read_text()):
        with contextlib.suppress(StoppedOnRequest):  # train.stop_after
            run(Road.load(Path(yaml), overrides, Path(runs)))


if __name__ == "__main__":
    main()
    os._exit(0)
