"""The process that forks what tests start outlives each of its askers."""

import gc
import sys
import time
from pathlib import Path

from loaded import loaded


def test_who_gives_up_waiting_takes_nothing_along(tmp_path: Path) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text("import sys, time\ntime.sleep(float(sys.argv[1]))\n")
    forked = loaded().start([sys.executable, str(script), "0.3"])
    forked._end.close()
    del forked
    gc.collect()
    time.sleep(0.6)
    assert loaded().start([sys.executable, str(script), "0"]).wait(10) == 0
