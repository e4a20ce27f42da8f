"""One logger for the whole program; rank 0 speaks, the others only warn."""

import logging
import os
import sys
import warnings

from megatron_math.base.secrets import keep_secrets

log = logging.getLogger("megatron_math")


def set_up_logging(*, quiet: bool = False, rank: int = 0) -> None:
    """Send the program's log to standard error, one line a message, once. Secrets are masked.

    Library warnings are silenced; PYTHONWARNINGS=default brings them back.
    """
    keep_secrets()
    if "PYTHONWARNINGS" not in os.environ:
        warnings.simplefilter("ignore")  # dozens of lines from libraries at every start
    log.setLevel(logging.WARNING if quiet or rank else logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.propagate = False
