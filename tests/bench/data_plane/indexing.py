"""JSONL to .bin/.idx: against Megatron-LM's algorithm, datatrove, the engine alone; memory."""

import os
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import PYTHON, Bench, Measured, Row, commands, ratio_row, seconds_and_rate
from inputs import (
    BENCH,
    SMALLEST_FULL_MB,
    Corpus,
    halves,
    part_of_corpus,
    warm,
)
from packages import VOCABULARIES, datatrove_python, vocabulary_file
from timing import Skip, alternate, run

from megatron_math.tokenizer.gigatoken import CACHE_BYTES

Command = list[str | Path]
WORKERS_TRIED = (1, 2, 3, 4)
FLOORS = {"hf": ("12", "30"), "sentencepiece": ("2", "10"), "tiktoken": ("4", "15")}
ENGINE_TRIED = [("native", "16"), ("native", "64"), ("own", "1.9"), ("own", "4"), ("shared", "1.9")]
ENGINE_QUICK = [("native", "16"), ("own", "1.9"), ("shared", "1.9")]
OUR_CACHE_MIB, ITS_CACHE_MIB = CACHE_BYTES >> 20, 512  # a thread
COMPARE_BYTES = 1 << 24


def ours_command(corpus: Path, prefix: Path, kind: str, model: Path) -> Command:
    return [
        PYTHON, "tools/preprocess_data.py", "--input", corpus, "--output-prefix", prefix,
        "--tokenizer-type", kind, "--tokenizer-model", model, "--append-eod", "--workers", "2",
    ]  # fmt: skip


def megatron_command(
    corpus: Path, prefix: Path, kind: str, model: Path, facts: dict[str, Any], workers: int
) -> Command:
    return [
        PYTHON, BENCH / "peers" / "megatron_preprocess.py", "--input", corpus, "--output-prefix",
        prefix, "--tokenizer-type", kind, "--tokenizer-model", model, "--vocab-size",
        str(facts["size"]), "--eod", str(facts["eod"]), "--workers", str(workers),
    ]  # fmt: skip


def engine_command(
    corpus: Path, kind: str, model: Path, way: tuple[str, str], cache_mib: int
) -> Command:
    mode, batch_mb = way
    return [
        PYTHON, BENCH / "ours" / "engine_rate.py", "--corpus", corpus, "--tokenizer-type", kind,
        "--tokenizer-model", model, "--mode", mode, "--batch-mb", batch_mb, "--cache-mib",
        str(cache_mib),
    ]  # fmt: skip


def timed(command: Command) -> float:
    return run(command).said["seconds"]


def tokenizer_facts(kind: str, model: Path) -> dict[str, Any]:
    script = (
        "import json, sys; from megatron_math.tokenizer import load_tokenizer as load;"
        "t = load(sys.argv[1], sys.argv[2]);"
        "print(json.dumps({'size': t.size, 'eod': t.eod_id, 'adds_bos': t.adds_bos}))"
    )
    facts = run([PYTHON, "-c", script, model, kind]).said
    if facts["adds_bos"]:
        raise Skip(f"{model.name} asks for a BOS, which Megatron-LM's script does not write")
    return facts


def full_corpus(bench: Bench, megabytes: int) -> Corpus:
    corpus = part_of_corpus(bench.corpora, bench.size(megabytes, 8))
    if not bench.quick and corpus.megabytes < SMALLEST_FULL_MB:
        raise Skip(f"only {corpus.megabytes:.0f} MB of distinct text were found on this machine")
    warm(corpus.path)
    return corpus


def describe(corpus: Corpus) -> str:
    return (
        f"{corpus.megabytes:.0f} MB of distinct text in {corpus.facts['documents']:,} documents "
        f"({corpus.path.stat().st_size / 1e6:.0f} MB of JSONL, in the page cache)"
    )


def same_bytes(parts: list[Path], whole: Path) -> bool:
    """Do the parts, one after another, hold what `whole` holds?"""
    if sum(part.stat().st_size for part in parts) != whole.stat().st_size:
        return False
    with open(whole, "rb") as right:
        for part in parts:
            with open(part, "rb") as left:
                while block := left.read(COMPARE_BYTES):
                    if right.read(len(block)) != block:
                        return False
    return True


def require_equal(peer: Path, ours: Path) -> None:
    for suffix in (".bin", ".idx"):
        left, right = (Path(f"{prefix}_text_document{suffix}") for prefix in (peer, ours))
        if not same_bytes([left], right):
            raise RuntimeError(f"{left.name} of the two sides differ: this is no comparison")


def empty(folder: Path) -> None:
    """Not timed: a side must not find what it wrote before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """Folders for both sides that are gone afterwards: the disk holds one pair at a time."""
    empty(folder / "peer")
    empty(folder / "ours")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def best_workers(bench: Bench, kind: str, model: Path, facts: dict[str, Any]) -> dict[int, float]:
    """Seconds of Megatron-LM's algorithm on a slice by number of workers, best first."""
    slice_ = part_of_corpus(bench.corpora, bench.size(48, 4))
    tried = {}
    for workers in (2,) if bench.quick else WORKERS_TRIED:
        with fresh(bench.work / "out") as out:
            command = megatron_command(
                slice_.path, out / "peer" / "corpus", kind, model, facts, workers
            )
            tried[workers] = run(command).seconds
    return dict(sorted(tried.items(), key=lambda item: item[1]))


def against_megatron(bench: Bench, name: str) -> Measured:
    vocabulary = VOCABULARIES[name]
    model, kind = vocabulary_file(name, bench.packages), vocabulary.kind
    facts = tokenizer_facts(kind, model)
    corpus = full_corpus(bench, 400)
    tried = best_workers(bench, kind, model, facts)
    workers = next(iter(tried))
    with fresh(bench.work / "out") as out:
        peer = megatron_command(corpus.path, out / "peer" / "corpus", kind, model, facts, workers)
        ours = ours_command(corpus.path, out / "ours" / "corpus", kind, model)

        def run_peer() -> float:
            warm(corpus.path)
            return run(peer).seconds

        def run_ours() -> float:
            empty(out / "ours")
            warm(corpus.path)
            seconds = run(ours).seconds
            require_equal(out / "peer" / "corpus", out / "ours" / "corpus")
            return seconds

        pairs = alternate(bench.pairs(3), run_peer, run_ours)
        row = ratio_row(
            f"JSONL to .bin/.idx, byte-identical, {vocabulary.title}",
            *FLOORS[name],
            pairs,
            seconds_and_rate(pairs.peer, corpus.text_bytes) + f", {workers} workers",
            seconds_and_rate(pairs.ours, corpus.text_bytes),
            workers_tried=tried,
        )
    setup = (
        f"{describe(corpus)}. Whole commands, start-up included; .bin and .idx compared byte for "
        f"byte in every pair. Megatron-LM's algorithm with its best of {sorted(tried)} workers "
        f"(on a slice: {', '.join(f'{w}: {s:.1f} s' for w, s in sorted(tried.items()))})."
    )
    return Measured(setup, [row], commands(bench, peer, ours))


def against_datatrove(bench: Bench) -> Measured:
    vocabulary = VOCABULARIES["hf"]
    model, kind = vocabulary_file("hf", bench.packages), vocabulary.kind
    python = datatrove_python(bench.work / "datatrove")
    corpus = full_corpus(bench, 400)
    tokenizer_facts(kind, model)

    def datatrove(part: Corpus, out: Path, batch: int) -> Command:
        return [
            python, BENCH / "peers" / "datatrove_megatron.py", "--input-folder", halves(part),
            "--output-folder", out, "--tokenizer", model, "--eos-token", vocabulary.eos_token,
            "--batch-size", str(batch),
        ]  # fmt: skip

    slice_ = part_of_corpus(bench.corpora, bench.size(48, 4))
    tried = {}
    for batch in (1000,) if bench.quick else (100, 1000, 10_000):
        with fresh(bench.work / "out") as out:
            tried[batch] = run(datatrove(slice_, out / "peer", batch)).seconds
    batch = min(tried, key=tried.__getitem__)
    with fresh(bench.work / "out") as out:
        peer = datatrove(corpus, out / "peer", batch)
        ours = ours_command(corpus.path, out / "ours" / "corpus", kind, model)

        def run_peer() -> float:
            empty(out / "peer")
            for path in (halves(corpus) / "0.jsonl", halves(corpus) / "1.jsonl"):
                warm(path)
            return run(peer).seconds

        def run_ours() -> float:
            empty(out / "ours")
            warm(corpus.path)
            seconds = run(ours).seconds
            parts = sorted((out / "peer").glob("*.bin"))
            if not same_bytes(parts, out / "ours" / "corpus_text_document.bin"):
                raise RuntimeError("datatrove's tokens differ from ours: this is no comparison")
            return seconds

        pairs = alternate(bench.pairs(3), run_peer, run_ours)
    row = ratio_row(
        f"JSONL to .bin/.idx against datatrove's Megatron writer, {vocabulary.title}",
        "5",
        "15",
        pairs,
        seconds_and_rate(pairs.peer, corpus.text_bytes) + f", 2 tasks, batches of {batch:,}",
        seconds_and_rate(pairs.ours, corpus.text_bytes),
        batches_tried=tried,
    )
    setup = (
        f"{describe(corpus)}; datatrove gets it in two files, one a task, and writes two indexes, "
        f"whose .bin one after another are compared with ours in every pair. Its best batch of "
        f"{sorted(tried)} documents (on a slice: "
        f"{', '.join(f'{b}: {s:.1f} s' for b, s in sorted(tried.items()))})."
    )
    return Measured(setup, [row], commands(bench, peer, ours))


def engine_share(bench: Bench) -> Measured:
    """What part of the bare engine's speed the whole command keeps."""
    rows, shown_commands = [], []
    corpus = full_corpus(bench, 400)
    whole = full_corpus(bench, 10_000)
    for name, part, cache_mib in (
        ("hf", whole, OUR_CACHE_MIB),
        ("hf", whole, ITS_CACHE_MIB),
        ("hf", corpus, ITS_CACHE_MIB),
        ("sentencepiece", corpus, ITS_CACHE_MIB),
        ("tiktoken", corpus, ITS_CACHE_MIB),
    ):
        vocabulary = VOCABULARIES[name]
        model, kind = vocabulary_file(name, bench.packages), vocabulary.kind
        ways = ENGINE_QUICK if bench.quick else ENGINE_TRIED
        engine = {way: engine_command(part.path, kind, model, way, cache_mib) for way in ways}
        tried = {way: timed(command) for way, command in engine.items()}
        best = min(tried, key=tried.__getitem__)
        with fresh(bench.work / "out") as out:
            ours = ours_command(part.path, out / "ours" / "corpus", kind, model)

            def run_ours(out: Path = out, ours: Command = ours, part: Corpus = part) -> float:
                empty(out / "ours")
                warm(part.path)
                return run(ours).seconds

            pairs = alternate(bench.pairs(3), partial(timed, engine[best]), run_ours)
        rows.append(
            Row(
                f"share of the engine's own raw rate, its caches {cache_mib} MiB a thread, "
                f"{vocabulary.title}, {part.megabytes:,.0f} MB",
                *(("0.6", "0.9") if part is whole and cache_mib == ITS_CACHE_MIB else ("-", "-")),
                pairs.ratio(),
                "share",
                seconds_and_rate(pairs.peer, part.text_bytes) + f" ({best[0]}, {best[1]} MB)",
                seconds_and_rate(pairs.ours, part.text_bytes),
                {**pairs.to_json(), "engine_tried": {", ".join(w): s for w, s in tried.items()}},
            )
        )
        shown_commands += commands(bench, engine[best], ours)
    setup = (
        f"{describe(corpus)}; the {whole.megabytes:,.0f} MB are all distinct text that was found. "
        f"The engine: all documents in memory as flat buffers, only its batch calls timed, caches "
        f"empty at first, of every row the best of its own parallel call, of a copy a thread and "
        f"of one copy for both threads, at several batch sizes (MB). Ours: the whole command, with "
        f"caches of {OUR_CACHE_MIB} MiB a thread in every row; start-up, reading, JSON, digests, "
        f"checks and synced files included. {ITS_CACHE_MIB} MiB are the engine's default; memory "
        f"would grow by hundreds of megabytes with it."
    )
    return Measured(setup, rows, shown_commands)


def memory_growth(bench: Bench) -> Measured:
    """Peak memory of the command on a corpus and on one ten times as large."""
    vocabulary = VOCABULARIES["hf"]
    model, kind = vocabulary_file("hf", bench.packages), vocabulary.kind
    facts = tokenizer_facts(kind, model)
    sizes = [bench.size(mb, mb // 25) for mb in (200, 2000, 240, 2400, 50, 500)]
    parts = [full_corpus(bench, sizes[0]), *(part_of_corpus(bench.corpora, mb) for mb in sizes[1:])]
    if not bench.quick and parts[1].megabytes < 1900:
        raise Skip(f"only {parts[1].megabytes:.0f} MB of distinct text were found")

    def peaks(side: str, part: Corpus) -> list[int]:
        found = []
        for _ in range(bench.pairs(3) if side == "ours" else 1):
            os.sync()
            with fresh(bench.work / "out") as out:
                command = (
                    ours_command(part.path, out / "ours" / "corpus", kind, model)
                    if side == "ours"
                    else megatron_command(part.path, out / "peer" / "corpus", kind, model, facts, 2)
                )
                found.append(run(command, memory=True).peak_bytes)
        return found

    rows = []
    for (one, ten), goal, with_peer in (  # the peer needs minutes for every 500 MB
        (parts[:2], ("< 50 MB", "< 10 MB"), False),
        (parts[2:4], ("-", "-"), False),
        (parts[4:], ("-", "-"), True),
    ):
        ours_1, ours_10 = peaks("ours", one), peaks("ours", ten)
        peer_1, peer_10 = (peaks("peer", part) if with_peer else [] for part in (one, ten))
        growths = [(b - a) / 1e6 for a, b in zip(ours_1, ours_10, strict=True)]
        peer_text = "not run"
        if with_peer:
            a, b = (statistics.median(values) / 1e6 for values in (peer_1, peer_10))
            peer_text = f"{a:.0f} MB to {b:.0f} MB"
        a, b = (statistics.median(values) / 1e6 for values in (ours_1, ours_10))
        rows.append(
            Row(
                f"memory growth, {one.megabytes:.0f} MB to {ten.megabytes:,.0f} MB of text",
                *goal,
                {
                    "median": statistics.median(growths),
                    "low": min(growths),
                    "high": max(growths),
                    "pairs": len(growths),
                },
                "MB",
                peer_text,
                f"{a:.0f} MB to {b:.0f} MB",
                {"ours_1x": ours_1, "ours_10x": ours_10, "peer_1x": peer_1, "peer_10x": peer_10},
            )
        )
    setup = (
        "Peak of the whole command: the larger of the biggest process's ru_maxrss and of the "
        "process tree's Pss, sampled every 50 ms; all text is distinct, and 2,400 MB is about all "
        f"there is. Below 240 MB the engine's caches of words, {OUR_CACHE_MIB} MiB a thread, are "
        "still filling, which is the growth from 50 to 500 MB and part of that from 200 to 2,000."
    )
    example = ours_command(parts[1].path, bench.work / "out" / "ours" / "corpus", kind, model)
    return Measured(setup, rows, commands(bench, example))


def large_files(bench: Bench) -> Measured:
    """Does the rate hold when the file system has gigabytes to write?"""
    vocabulary = VOCABULARIES["hf"]
    model, kind = vocabulary_file("hf", bench.packages), vocabulary.kind
    small = full_corpus(bench, 400)
    large = part_of_corpus(bench.corpora, bench.size(10_000, 32))
    if not bench.quick and large.text_bytes < 2e9:
        raise Skip(f"only {large.megabytes:.0f} MB of distinct text were found")

    def seconds_of(part: Corpus) -> float:
        warm(part.path)
        with fresh(bench.work / "out") as out:
            return run(ours_command(part.path, out / "ours" / "corpus", kind, model)).seconds

    def per_byte(part: Corpus) -> float:
        return seconds_of(part) / part.text_bytes

    pairs = alternate(bench.pairs(3), lambda: per_byte(small), lambda: per_byte(large))
    small_s, large_s = (
        [value * part.text_bytes for value in values]
        for part, values in ((small, pairs.peer), (large, pairs.ours))
    )
    row = ratio_row(
        f"rate on {large.path.stat().st_size / 1e9:.1f} GB of JSONL against ours on "
        f"{small.megabytes:.0f} MB",
        "-",
        "-",
        pairs,
        seconds_and_rate(small_s, small.text_bytes),
        seconds_and_rate(large_s, large.text_bytes),
    )
    setup = "Ours against itself: does the rate hold where gigabytes are read, written and synced?"
    example = ours_command(large.path, bench.work / "out" / "ours" / "corpus", kind, model)
    return Measured(setup, [row], commands(bench, example))
