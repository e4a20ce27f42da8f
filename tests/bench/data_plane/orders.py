"""Orders: documents, samples and shuffle of an epoch; which source each sample comes from."""

from functools import partial
from pathlib import Path

from bench import PYTHON, Bench, Measured, Row, commands, rate, ratio_row
from inputs import BENCH
from timing import Pairs, alternate, run

SEQUENCE_LENGTH = 4096
MEAN_TOKENS = 660
Command = list[str | Path]


def timed(command: Command) -> float:
    return run(command).said["seconds"]


def epoch_order(bench: Bench) -> Measured:
    num_documents = bench.size(50_000_000, 1_000_000)
    folder = bench.folder("order")
    prefix = folder / f"{num_documents}"
    lengths = prefix.with_suffix(".npy")
    if not lengths.is_file():
        run([PYTHON, BENCH / "ours" / "synthetic_index.py", prefix, str(num_documents),
             "--mean-tokens", str(MEAN_TOKENS), "--sparse"])  # fmt: skip
        for suffix in (".bin", ".idx", ".json"):  # only the lengths are wanted
            prefix.with_suffix(suffix).unlink()
    common: Command = ["--lengths", lengths, "--sequence-length", str(SEQUENCE_LENGTH)]
    peer: Command = [PYTHON, BENCH / "peers" / "core_order.py", *common]
    ours: Command = [PYTHON, BENCH / "ours" / "order.py", *common, "--threads"]
    samples = run(peer).said["samples"]
    rows = []
    for threads, floor, aim in ((2, "2", "8"), (1, "-", "-")):
        mine: Command = [*ours, str(threads)]
        pairs = alternate(bench.pairs(5), partial(timed, peer), partial(timed, mine))
        rows.append(
            ratio_row(
                f"document + sample + shuffle order, {num_documents / 1e6:.0f} M documents, all "
                f"ids delivered" + ("" if threads > 1 else ", ours in one thread"),
                floor,
                aim,
                pairs,
                rate(pairs.peer, num_documents, "documents"),
                rate(pairs.ours, num_documents, "documents"),
            )
        )
    setup = (
        f"{num_documents:,} documents of {MEAN_TOKENS} tokens on average (log-normal), sequence "
        f"length {SEQUENCE_LENGTH}, {samples:,} samples, one epoch; lengths in memory, imports "
        f"not counted. Core: the functions that GPTDataset calls (arange, token sum, document "
        f"shuffle, build_sample_idx, sample shuffle), which use one thread; its cache is not "
        f"written. Ours: the plan's pass over all segments, then every position's document and "
        f"every sample's first position and token written to arrays, in two threads."
    )
    return Measured(setup, rows, commands(bench, peer, [*ours, "2"]))


def blend_order(bench: Bench) -> Measured:
    folder = bench.folder("blend")
    rows, shown = [], []
    for num_sources, millions in ((10, 20), (100, 10), (1000, 5)):
        num_samples = bench.size(millions * 1_000_000, 200_000)
        shares = folder / f"shares_{num_sources}.npy"
        run([PYTHON, "-c", SHARES, str(num_sources), shares])
        common: Command = ["--shares", shares, "--samples", str(num_samples)]
        peer: Command = [PYTHON, BENCH / "peers" / "core_blend.py", *common]
        ours: Command = [
            PYTHON, BENCH / "ours" / "blend.py", *common, "--sequence-length", str(SEQUENCE_LENGTH),
        ]  # fmt: skip
        for numbers in (False, True):
            mine = [*ours, "--numbers"] if numbers else ours
            goal = ("10", "50") if num_sources == 1000 and numbers else ("-", "-")
            pairs = alternate(bench.pairs(5), partial(timed, peer), partial(timed, mine))
            rows.append(blend_row(num_sources, num_samples, numbers, goal, pairs))
        shown = commands(bench, peer, ours)
    setup = (
        "Shares like a power law, shuffled. Core: build_blending_indices (source and number of "
        "every sample). Ours: targets, the source of every sample and the counts that a plan "
        "keeps; in the second line of each pair also every sample's number within its source, "
        "which a reader does not need. One thread each; imports not counted."
    )
    return Measured(setup, rows, shown)


def blend_row(
    num_sources: int, num_samples: int, numbers: bool, goal: tuple[str, str], pairs: Pairs
) -> Row:
    what = f"blend order, {num_sources:,} datasets, {num_samples / 1e6:g} M samples"
    return ratio_row(
        what + (", numbers written out too" if numbers else ""),
        *goal,
        pairs,
        rate(pairs.peer, num_samples, "samples"),
        rate(pairs.ours, num_samples, "samples"),
    )


SHARES = (
    "import sys, numpy as np; n = int(sys.argv[1]);"
    "shares = np.ceil(1e4 / np.arange(1, n + 1) ** 0.7).astype(np.int64);"
    "np.save(sys.argv[2], np.random.default_rng(3).permutation(shares))"
)
