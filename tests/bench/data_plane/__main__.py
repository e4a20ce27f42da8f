"""Every figure of the data plane against a peer that runs beside it.

    python tests/bench/data_plane [MEASURE ...] [--quick] [--pairs N] [--work DIR] [--record]

Peer and ours run by turns as processes of their own, peer first; the ratio is that of a pair, and
the median and the extremes of all pairs are told. --record writes docs/benchmarks/data_plane.json
and the table in data_plane.md; without it results are printed and kept in the work folder.
"""

import argparse
import functools
import signal
import sys
import time
from pathlib import Path

import indexing
import orders
import page
import reads
from bench import Bench, Measure
from timing import REPOSITORY, Skip

MEASURES: dict[str, Measure] = {
    "preprocess-hf": functools.partial(indexing.against_megatron, name="hf"),
    "preprocess-sentencepiece": functools.partial(indexing.against_megatron, name="sentencepiece"),
    "preprocess-tiktoken": functools.partial(indexing.against_megatron, name="tiktoken"),
    "preprocess-datatrove": indexing.against_datatrove,
    "engine-share": indexing.engine_share,
    "memory": indexing.memory_growth,
    "large-files": indexing.large_files,
    "order": orders.epoch_order,
    "blend": orders.blend_order,
    "open": reads.open_warm,
    "read": reads.random_reads,
    "loader": reads.loader_cost,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the data plane against its peers.")
    add = parser.add_argument
    add("measures", nargs="*", metavar="MEASURE", help=f"default: all of {', '.join(MEASURES)}")
    add("--quick", action="store_true", help="small inputs, one pair: does it work at all?")
    add("--pairs", type=int, help="pairs of each measure, instead of its own number")
    add("--work", type=Path, default=REPOSITORY / "runs" / "bench", help="folder for all files")
    add("--record", action="store_true", help="write docs/benchmarks/data_plane.{json,md}")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a side's process ends too
    unknown = [name for name in args.measures if name not in MEASURES]
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    if args.quick and args.record:
        parser.error("a quick run is a smoke test; its figures are not for the page")
    bench = Bench(args.work.resolve(), args.quick, args.pairs)
    bench.work.mkdir(parents=True, exist_ok=True)
    results_path = page.RESULTS if args.record else bench.work / "results.json"
    results, missing = page.load_results(results_path), 0
    for name in args.measures or MEASURES:
        begun, described = time.perf_counter(), page.describe_run()
        try:
            measured = MEASURES[name](bench)
        except Skip as reason:
            print(f"{name}: skipped: {reason}", file=sys.stderr)
            missing += 1
            continue
        except RuntimeError as failure:
            print(f"{name}: failed: {failure}", file=sys.stderr)
            missing += 1
            continue
        results[name] = page.to_record(described, measured)
        results = {key: results[key] for key in MEASURES if key in results}
        page.save_results(results_path, results)
        print(f"{page.table({name: results[name]})}\n({time.perf_counter() - begun:.0f} s)\n")
        if args.record:
            page.write_page(results)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
