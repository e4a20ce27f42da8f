"""Run by tests in several processes at once: train one road after another.

Usage: train_several.py JOBS.json, a list of [yaml, overrides, runs] or [yaml, overrides, runs,
"module:function"]. The function is dropped for that road: it returns its first argument. Loading
the libraries takes longer than the steps, so layouts of as many processes share them.
"""

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from unittest import mock

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.train.run import run


def main() -> None:
    for yaml, overrides, runs, *dropped in json.loads(Path(sys.argv[1]).read_text()):
        with contextlib.ExitStack() as stack:
            for name in dropped:
                module, function = name.split(":")
                importlib.import_module(module)
                patch = mock.patch.object(sys.modules[module], function, _first_argument)
                stack.enter_context(patch)
            stack.enter_context(contextlib.suppress(StoppedOnRequest))  # train.stop_after
            run(Road.load(Path(yaml), overrides, Path(runs)))


def _first_argument(first: object, *rest: object, **named: object) -> object:
    return first


if __name__ == "__main__":
    main()
    os._exit(0)
