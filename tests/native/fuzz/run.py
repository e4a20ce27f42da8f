"""Builds the fuzz targets with ASan and UBSan and runs each on inputs drawn from a seed.

python tests/native/fuzz/run.py [--seconds 600] [--seed N] [--only order] [--work FOLDER]

Needs a C++ compiler alone; the head of each target says how libFuzzer drives it. Exit code 1 when
a target finds something; the command that repeats it is printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CSRC = Path(__file__).resolve().parents[3] / "csrc"
TARGETS = {
    "json_lines": [],
    "order": [
        *("blend_order.cpp", "concat_pieces.cpp", "epoch.cpp", "keyed_permutation.cpp"),
        "pack_index.cpp",
    ],
    "text_scans": ["words.cpp", "row_search.cpp", "shingles.cpp"],
}
SANITIZE = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]


def build(target: str, folder: Path, optimize: str = "-O1") -> Path:
    """The target's program in `folder`."""
    program = folder / f"{target}_fuzz"
    sources = [Path(__file__).with_name(f"{target}_fuzz.cpp"), *(CSRC / s for s in TARGETS[target])]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", optimize, *SANITIZE, f"-I{CSRC}", *map(str, sources)]
    subprocess.run([*command, "-o", str(program)], check=True)
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--work", type=Path, help="keep the programs here")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for target in [args.only] if args.only else TARGETS:
            work = args.work or Path(folder)
            work.mkdir(parents=True, exist_ok=True)
            program = build(target, work)
            print(f"{target}: {args.seconds:g} s from seed {args.seed}", flush=True)
            if subprocess.run([str(program), str(args.seconds), str(args.seed)]).returncode:
                found.append(target)
    for target in found:
        print(f"{target} found something: {sys.argv[0]} --only {target} --seed {args.seed}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
