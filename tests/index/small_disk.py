"""Run by test_kills.py in a mount namespace of its own: jobs on a tmpfs that is too small."""

import errno
import json
import subprocess
import sys
from pathlib import Path

from small_jobs import contents, make_job, shrink_units, write_corpora

from megatron_math.index.encode import encode_files

STEP_KB = 12


def main(folder: Path) -> None:
    shrink_units()
    files = write_corpora(folder / "in")
    encode_files(make_job(folder / "whole", files), max_bad=1.0)
    wanted = contents(folder / "whole")
    disk = folder / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "small", str(disk))
    encode_files(make_job(disk, files[4:]), max_bad=1.0)
    before = contents(disk)
    failed, codes = 0, set()
    for kilobytes in range(64 + STEP_KB, 2000, STEP_KB):
        mount("-o", f"remount,size={kilobytes}k", str(disk))
        try:
            encode_files(make_job(disk, files), max_bad=1.0)
        except OSError as error:
            failed += 1
            codes.add(errno.errorcode[error.errno or 0])
            assert str(disk) in str(error), error  # noqa: PT017
            found = contents(disk)
            kept = {name: found.get(name) for name in before}
            assert kept == before, "the earlier index changed"
        else:
            break
    assert contents(disk) == wanted
    print(json.dumps({"sizes_that_failed": failed, "errno": sorted(codes)}))


def mount(*arguments: str) -> None:
    if subprocess.run(["mount", *arguments], check=False).returncode:
        sys.exit("cannot mount")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
