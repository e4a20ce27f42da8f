"""Opening a plan, random samples, and what a real loader costs a training run."""

import json
import statistics
from functools import partial
from pathlib import Path

from bench import PYTHON, Bench, Measured, Row, commands, rate, ratio_row
from inputs import BENCH, warm
from orders import MEAN_TOKENS, SEQUENCE_LENGTH
from timing import alternate, run

Command = list[str | Path]
MODES = {
    "plain": "one position run, no mask (as fast attention kernels want it)",
    "documents": "positions and loss reset at every EOD, no mask",
    "mask": "with the full attention mask, kept between samples",
}
ROAD = """name: {name}
seed: 1234
blend:
  sequence_length: {length}
  tokens: {tokens}
  validation: 0.001
  mix:
    corpus: {{share: 1, path: {prefix}}}
"""


class Indexed:
    """A synthetic index, core's cache for it and our plan of it; all in one folder."""

    def __init__(self, bench: Bench, num_documents: int, *, sparse: bool) -> None:
        name = f"{num_documents}_{'sparse' if sparse else 'real'}"
        folder = bench.folder("read") / name
        self.prefix, self.cache = folder / "corpus", folder / "core"
        self.plan = folder / "runs" / "ours" / "40_blend"
        if not (folder / "facts.json").is_file():
            command: Command = [
                PYTHON, BENCH / "ours" / "synthetic_index.py", self.prefix, str(num_documents),
                "--mean-tokens", str(MEAN_TOKENS), *(["--sparse"] if sparse else []),
            ]  # fmt: skip
            facts = run(command).said
            (folder / "facts.json").write_text(json.dumps(facts))
        self.tokens: int = json.loads((folder / "facts.json").read_text())["tokens"]
        self.num_samples = int(0.99 * self.tokens) // SEQUENCE_LENGTH
        road = folder / "road.yaml"
        road.write_text(
            ROAD.format(
                name="ours",
                length=SEQUENCE_LENGTH,
                tokens=self.num_samples * SEQUENCE_LENGTH,
                prefix=self.prefix,
            )
        )
        blend: Command = [PYTHON.parent / "megatron-math", "blend", road, "--runs", folder / "runs"]
        run(blend)  # at once when it is up to date
        if not any(self.cache.glob("*shuffle_index.npy")):
            run(self.core("build"))

    def core(self, what: str, *extra: str) -> Command:
        return [
            PYTHON, BENCH / "peers" / "core_gpt_dataset.py", what, "--prefix", self.prefix,
            "--cache", self.cache, "--sequence-length", str(SEQUENCE_LENGTH), "--samples",
            str(self.num_samples), *extra,
        ]  # fmt: skip

    def ours(self, what: str, *extra: str) -> Command:
        return [PYTHON, BENCH / "ours" / "plan_reader.py", what, "--plan", self.plan, *extra]


def open_warm(bench: Bench) -> Measured:
    indexed = Indexed(bench, bench.size(100_000_000, 1_000_000), sparse=True)
    for path in (indexed.prefix.with_suffix(".idx"), *indexed.cache.iterdir()):
        warm(path)
    ours = indexed.ours("open")
    documents = f"{bench.size(100_000_000, 1_000_000) / 1e6:.0f} M documents"
    rows = []
    grown: dict[str, list[int]] = {"peer": [], "ours": []}

    def timed(command: Command, side: str) -> float:
        said = run(command).said
        grown[side].append(said["grown_bytes"])
        return said["seconds"]

    for what, extra, goal in (
        ("GPTDataset", (), ("10", "100")),
        ("GPTDataset with its fast cache options", ("--fast",), ("-", "-")),
    ):
        peer = indexed.core("open", *extra)
        for side in grown:
            grown[side] = []
        pairs = alternate(
            bench.pairs(7), partial(timed, peer, "peer"), partial(timed, ours, "ours")
        )
        peer_ms, ours_ms = (statistics.median(side) * 1e3 for side in (pairs.peer, pairs.ours))
        peer_mb, ours_mb = (statistics.median(grown[side]) / 1e6 for side in ("peer", "ours"))
        rows.append(
            ratio_row(
                f"open to first sample, {documents}, warm, against {what}",
                *goal,
                pairs,
                f"{peer_ms:.1f} ms, {peer_mb:.0f} MB more memory",
                f"{ours_ms:.1f} ms, {ours_mb:.0f} MB more memory",
                grown_bytes={side: list(values) for side, values in grown.items()},
            )
        )
    setup = (
        f"One index of {documents}, {indexed.tokens / 1e9:.0f} G tokens in a sparse .bin, "
        f"{indexed.num_samples:,} samples of {SEQUENCE_LENGTH}; plan and core's cache are there "
        f"and in the page cache. A new process each time; from after the imports to sample 0 in "
        f"memory; memory is the growth of the resident set up to its highest. Core's fast options "
        f"(fast_cache_load, defer_npy_index_mmap) trust the cache without a look, ours compares "
        f"the index with the plan."
    )
    return Measured(setup, rows, commands(bench, indexed.core("open"), ours))


def random_reads(bench: Bench) -> Measured:
    rows: list[Row] = []
    shown: list[str] = []
    seconds = "1" if bench.quick else "5"
    tried: dict[str, float] = {}
    for num_documents, sparse, goal in (
        (bench.size(1_600_000, 100_000), False, ("5", "20")),  # a .bin of 2.1 GB
        (bench.size(20_000_000, 200_000), True, ("-", "-")),
    ):
        indexed = Indexed(bench, num_documents, sparse=sparse)

        bin_path = None if sparse else indexed.prefix.with_suffix(".bin")

        def each(command: Command, bin_path: Path | None = bin_path) -> float:
            if bin_path:
                warm(bin_path)  # some systems drop from the page cache what lies unused
            said = run(command).said
            return said["seconds"] / said["samples"]

        def peer(mode: str, indexed: Indexed = indexed) -> Command:
            return indexed.core("read", "--mode", mode, "--seconds", seconds)

        if not tried:
            tried = {
                mode: each(peer(mode)) for mode in [*MODES, *MODES][len(MODES) * bench.quick :]
            }
        fastest = min(tried, key=tried.__getitem__)
        for batch, mode in (("16", fastest), ("1", fastest), ("16", "documents")):
            ours = indexed.ours("read", "--batch", batch, "--seconds", seconds)
            pairs = alternate(bench.pairs(5), partial(each, peer(mode)), partial(each, ours))
            rows.append(
                ratio_row(
                    f"random {SEQUENCE_LENGTH:,}-token samples, {num_documents / 1e6:g} M documents"
                    + (", sparse .bin" if sparse else "")
                    + (", batches of 16" if batch == "16" else ", one at a time")
                    + (f", core with '{mode}'" if mode != fastest else ""),
                    *(goal if batch == "16" else ("-", "-")),
                    pairs,
                    rate(pairs.peer, 1, "samples"),
                    rate(pairs.ours, 1, "samples"),
                    peer_tried=tried,
                )
            )
            shown += commands(bench, peer(fastest), ours)
    others = ", ".join(f"{mode} {1 / value:,.0f}/s" for mode, value in tried.items())
    setup = (
        f"One process a side for {seconds} s, samples drawn at random, index in the page cache, "
        f"nothing of it in the process. Core's fastest setting, '{fastest}': {MODES[fastest]} "
        f"(tried: {others}); its samples are not collated into batches. Ours: whole batches with "
        f"tokens, labels, loss mask, document ids and positions reset by document."
    )
    return Measured(setup, rows, shown[:2])


def loader_cost(bench: Bench) -> Measured:
    command: Command = [
        PYTHON, BENCH / "loader_cost.py", "--work", bench.folder("loader"), "--pairs",
        str(bench.pairs(9)), "--steps", str(bench.size(200, 20)),
    ]  # fmt: skip
    said = run(command).said
    cost = {key: value * 100 for key, value in said["cost"].items()} | {
        "pairs": said["cost"]["pairs"]
    }
    real, mock = (
        f"{statistics.median(said[f'{side}_tokens_per_second']):,.0f} tokens/s"
        for side in ("real", "mock")
    )
    share = said["reading_share"] * 100
    once = {"median": share, "low": share, "high": share, "pairs": 1}
    rows = [
        Row("loader cost in a CPU training run, real against mock", "< 2 %", "< 0.3 %", cost, "%",
            f"mock: {mock}", f"real: {real}", said),
        Row("same, reading alone as a share of a step, which bounds it", "< 2 %", "< 0.3 %", once,
            "%", f"step: {said['step_ms']:.1f} ms", f"waited: {said['wait_share'] * 100:.3f} %"),
    ]  # fmt: skip
    setup = (
        "Two training runs by turns, one on real data and one with --mock-data; the interval of "
        "the first line is one for the median, at 95 %, where there are pairs enough. The second "
        "line is the time to read a step's samples with nothing beside it over the step's time."
    )
    return Measured(setup, rows, commands(bench, command))
