"""Decontamination and near-duplicate removal against datatrove: docs/benchmarks/curate.md.

    python tests/bench/curate --peer-python PYTHON [MEASURE ...] [--mb 24] [--pairs 3]
        [--speed-mb 300] [--turns 5] [--record]

PYTHON has datatrove, spacy and xxhash (CURATE_PEER_PYTHON names it, too), and rensa and datasketch
for `libraries`. Peer and ours run by turns as processes of their own, on --mb of text; the ratio is
that of a pair. `speed` is ours alone, on --speed-mb.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCH / "data_plane"), str(BENCH.parents[1])]

from corpus import ROOTS, file_texts, shared_data, texts_of_record  # noqa: E402
from page import describe_run, load_results, save_results  # noqa: E402
from timing import REPOSITORY, Pairs, alternate, run  # noqa: E402

BENCHMARKS = ("gsm8k", "math500", "svamp")
PAGE = REPOSITORY / "docs" / "benchmarks" / "curate.md"
BEGIN, END = "<!-- generated from curate.json: begin -->", "<!-- generated: end -->"
DOCUMENT_CHARACTERS = 6000
CHANGED = (0.002, 0.01, 0.02, 0.04)
"""Shares of words that planted near-copies have changed: Jaccard index from 0.98 to 0.7."""
SPEEDS = {
    "ngram13": "13-gram rule",
    "all rules": "all three rules",
    "minhash": "near-duplicates",
    "all steps": "equal texts, near-duplicates and all three rules",
}
SPEED_GOALS = {"ngram13": "20 | 100", "all rules": "20 | 100"}
OURS = [sys.executable, "-c", "from megatron_math.cli import program; program()"]


def training_texts() -> Iterator[str]:
    """The shared data that is no benchmark."""
    data = shared_data()
    for path in sorted([*data.glob("general/*"), *data.glob("math/*")]):
        yield path.read_text(encoding="utf-8")
    for path in [data / "gsm8k" / "train.jsonl", *sorted(data.glob("jiuzhang3/*"))]:
        yield from map(texts_of_record, path.read_text(encoding="utf-8").splitlines())


def texts(megabytes: int) -> list[str]:
    """Distinct real text; every tenth document has a near-copy somewhere behind it."""
    draw, found, size = random.Random(0), {}, 0
    for root in (None, *ROOTS):
        pieces = training_texts() if root is None else (text for _, text in file_texts(root))
        for text in pieces:
            for start in range(0, len(text), DOCUMENT_CHARACTERS):
                part = text[start : start + DOCUMENT_CHARACTERS]
                if len(part) > 200 and part not in found:
                    found[part] = None
                    size += len(part.encode())
            if size > megabytes * 10**6:
                break
    documents = list(found)
    for document in documents[::10]:
        words = document.split(" ")
        share = draw.choice(CHANGED)
        documents.append(" ".join("other" if draw.random() < share else word for word in words))
    draw.shuffle(documents)
    return documents


def write_corpus(work: Path, megabytes: int) -> tuple[Path, int, int]:
    """(folder, documents, bytes of text) of a corpus: two files, one a task of the peer."""
    folder = work / f"corpus_{megabytes}"
    facts = work / f"corpus_{megabytes}.json"
    if not facts.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        documents = texts(megabytes)
        for number in range(2):
            with open(folder / f"{number}.jsonl", "w", encoding="utf-8") as file:
                for i, text in enumerate(documents[number::2]):
                    file.write(json.dumps({"id": f"{number}_{i}", "text": text}) + "\n")
        sizes = [len(documents), sum(len(text.encode()) for text in documents)]
        facts.write_text(json.dumps(sizes))
    documents, size = json.loads(facts.read_text())
    return folder, documents, size


def write_rows(path: Path) -> None:
    from megatron_math.benchmarks.load import load_benchmark

    with open(path, "w", encoding="utf-8") as file:
        for name in BENCHMARKS:
            for row in load_benchmark(name, None, shared_data()).rows:
                file.write(json.dumps({"text": row.problem}) + "\n")


def ours(work: Path, corpus: Path, what: str) -> tuple[float, dict]:
    """Seconds of the whole command, and its stats."""
    section = {"sources": {"corpus": {"path": str(corpus / "*.jsonl")}}}
    if what != "all steps":
        section["dedup"] = "none"
    if what in ("minhash", "all steps"):
        section["near_duplicates"] = {}
    if what != "minhash":
        rules = ["ngram13"] if what == "ngram13" else ["ngram10", "ngram13", "numbers"]
        section["decontaminate"] = {
            "benchmarks": list(BENCHMARKS), "data": str(shared_data()), "rules": rules
        }  # fmt: skip
    name = what.replace(" ", "_")
    road = work / f"{name}.yaml"
    road.write_text(json.dumps({"name": f"{name}_{time.time_ns()}", "curate": section}))
    runs = work / "runs"
    seconds = run([*OURS, "curate", road, "--runs", runs]).seconds
    (stats,) = runs.glob(f"{name}_*/20_curate/stats.json")
    found = json.loads(stats.read_text())
    shutil.rmtree(runs)
    return seconds, found


def against_datatrove(args: argparse.Namespace, what: str) -> dict:
    """Pairs of whole commands."""
    corpus, documents, size = write_corpus(args.work, args.mb)
    rows, out = args.work / "rows.jsonl", args.work / "peer"
    write_rows(rows)
    peer_what = "minhash" if what == "minhash" else "decontaminate"
    command = [
        args.peer_python, BENCH / "peers" / "datatrove_curate.py", peer_what, "--input-folder",
        corpus, "--output-folder", out, "--rows", rows,
    ]  # fmt: skip
    said: dict[str, dict] = {}

    def peer_side() -> float:
        done = run(command)
        said["peer"] = done.said
        return done.seconds

    def our_side() -> float:
        seconds, stats = ours(args.work, corpus, what)
        said["ours"] = {key: stats[key] for key in ("read", "kept", "dropped")}
        return seconds

    pairs: Pairs = alternate(args.pairs, peer_side, our_side)
    return {
        "documents": documents,
        "text_bytes": size,
        **pairs.to_json(),
        "said": said,
    }


def speed(args: argparse.Namespace) -> dict:
    """Whole commands of ours by turns, with start-up, and the start-up alone."""
    corpus, documents, size = write_corpus(args.work, args.speed_mb)
    seconds: dict[str, list[float]] = {what: [] for what in SPEEDS}
    stats: dict[str, dict] = {}
    start_up = []
    for turn in range(args.turns + 1):  # the first one warms the file cache
        for what in SPEEDS:
            os.sync()
            taken, stats[what] = ours(args.work, corpus, what)
            if turn:
                seconds[what].append(taken)
        if turn:
            start_up.append(run([*OURS, "curate", "--help"]).seconds)
    return {
        "documents": documents,
        "text_bytes": size,
        "seconds": seconds,
        "start_up_seconds": start_up,
        "kept": {what: stats[what]["kept"] for what in SPEEDS},
    }


def rate(args: argparse.Namespace) -> dict:
    """The search alone, texts in memory, by rules and threads; the best of five turns."""
    from megatron_math.benchmarks.load import load_benchmark
    from megatron_math.curate.decontaminate import DEFAULT_RULES, BenchmarkText, Searcher
    from megatron_math.native.shingles import ShingleHasher

    corpus, _, size = write_corpus(args.work, args.mb)
    encoded = [
        json.loads(line)["text"].encode()
        for path in sorted(corpus.iterdir())
        for line in path.open(encoding="utf-8")
    ]
    rows = [
        BenchmarkText(name, row.id, row.problem)
        for name in BENCHMARKS
        for row in load_benchmark(name, None, shared_data()).rows
    ]
    found = {}
    for title, rules in (("ngram10", ["ngram10"]), ("ngram13", ["ngram13"]),
                         ("all three rules", DEFAULT_RULES)):  # fmt: skip
        search = partial(Searcher(rows, *rules)._native.search, encoded)
        for threads in (1, 2):
            found[f"{title}, {threads} threads"] = best_rate(
                lambda t=threads, s=search: s(num_threads=t), size
            )
    hasher = ShingleHasher(5, 33, 8)
    for threads in (1, 2):
        found[f"MinHash bands, {threads} threads"] = best_rate(
            lambda t=threads: hasher.bands(encoded, num_threads=t), size
        )
    return {"megabytes_per_second": found, "text_bytes": size}


def best_rate(work, size: int) -> float:
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return size / min(seconds) / 1e6


def recall(args: argparse.Namespace) -> dict:
    """Clusters against the Jaccard index of all pairs of some real documents with near-copies."""
    import numpy as np

    from megatron_math.curate.config import NearDuplicatesConfig
    from megatron_math.curate.near_duplicates import NearDuplicates, open_hasher
    from megatron_math.native.row_search import flatten
    from megatron_math.native.shingles import ShingleHasher
    from megatron_math.native.text_digests import digests

    corpus, _, _ = write_corpus(args.work, args.mb)
    draw = random.Random(1)
    lines = (corpus / "0.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = [json.loads(line)["text"] for line in draw.sample(lines, min(2000, len(lines)))]
    for text in chosen[:1000]:
        words, share = text.split(" "), draw.uniform(0.0, 0.06)
        chosen.append(" ".join("other" if draw.random() < share else word for word in words))
    encoded = [text.encode() for text in chosen]
    first, second = (side.astype(np.int64) for side in np.triu_indices(len(chosen), 1))
    index = ShingleHasher(5, 1, 1).jaccard(encoded, first, second)
    found = {"documents": len(chosen), "pairs": len(index)}
    for threshold in (0.7, 0.8, 0.9):
        config = NearDuplicatesConfig(threshold=threshold)
        near = NearDuplicates(
            config, args.work / "near", lambda some: flatten([encoded[n] for n in some.tolist()])
        )
        near.begin_source()
        near.add(digests(*flatten(encoded)), *open_hasher(config).bands(encoded))
        verdicts = near.settle()
        near.close()
        same = verdicts.survivors[first] == verdicts.survivors[second]
        for low, high in ((threshold, threshold + 0.02), (threshold, 1.01)):
            is_near = (index >= low) & (index < high)
            found[f"threshold {threshold}, Jaccard {low} to {min(high, 1):.2f}"] = {
                "pairs": int(is_near.sum()),
                "in one cluster": float(same[is_near].mean()),
            }
        dropped = verdicts.survivors != np.arange(len(chosen))
        found[f"threshold {threshold}, dropped"] = {
            "records": int(dropped.sum()),
            "linked by a pair at the threshold": float(
                (verdicts.link[dropped] >= threshold).mean()
            ),
        }
    return found


def libraries(args: argparse.Namespace) -> dict:
    """rensa and datasketch on one of the corpus's files, beside our bands of it."""
    from megatron_math.native.shingles import ShingleHasher

    source = write_corpus(args.work, args.mb)[0] / "0.jsonl"
    script = BENCH / "peers" / "minhash_libraries.py"
    found = {
        name: run([args.peer_python, script, name, "--input", source]).said
        for name in ("rensa", "datasketch")
    }
    encoded = [json.loads(line)["text"].encode() for line in source.open(encoding="utf-8")]
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        ShingleHasher(5, 33, 8).bands(encoded, num_threads=1)
        seconds.append(time.perf_counter() - begun)
    found["ours, one thread, shingles and signatures"] = {"seconds": min(seconds)}
    return found


def table(results: dict) -> str:
    """One line a comparison, then the figures of the other measures."""
    lines = [
        "| measure | floor | aim | median | lowest to highest | pairs | datatrove | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    goals = {"ngram13": ("5", "20"), "minhash": ("3", "10")}
    titles = {
        "ngram13": "decontamination, 13-grams, whole commands",
        "minhash": "near-duplicates, whole commands",
    }
    for what, title in titles.items():
        if what not in results:
            continue
        one = results[what]
        ratio, sides = one["ratio"], {}
        for side in ("peer", "ours"):
            seconds = statistics.median(one[side])
            sides[side] = (
                f"{seconds:.1f} s, {one['text_bytes'] / seconds / 1e6:.1f} MB/s, "
                f"{one['documents'] / seconds:,.0f} documents/s"
            )
        lines.append(
            f"| {title} | {goals[what][0]} | {goals[what][1]} | {ratio['median']:.1f}x | "
            f"{ratio['low']:.1f}x to {ratio['high']:.1f}x | {ratio['pairs']} | {sides['peer']} | "
            f"{sides['ours']} |"
        )
    if "speed" in results:
        one = results["speed"]
        megabytes = one["text_bytes"] / 1e6
        lines += [
            "",
            f"| whole commands, {megabytes:.0f} MB, {one['documents']:,} documents | floor | aim "
            "| median | lowest to highest | turns |",
            "|---|---|---|---|---|---|",
        ]
        for what, seconds in one["seconds"].items():
            rates = sorted(megabytes / taken for taken in seconds)
            lines.append(
                f"| {SPEEDS[what]} | {SPEED_GOALS.get(what, ' | ')} | "
                f"{statistics.median(rates):.0f} MB/s | {rates[0]:.0f} to {rates[-1]:.0f} MB/s | "
                f"{len(rates)} |"
            )
        start_up = statistics.median(one["start_up_seconds"])
        lines += ["", f"Of each command {start_up:.1f} s are the program's own start (`--help`)."]
    if "rate" in results:
        lines += ["", "| in memory | MB/s |", "|---|---|"]
        for name, value in results["rate"]["megabytes_per_second"].items():
            lines.append(f"| {name} | {value:.0f} |")
    for name in ("recall", "libraries"):
        if name in results:
            lines += ["", f"| {name} | |", "|---|---|"]
            for key, value in results[name].items():
                if key in ("date", "commit", "machine", "versions"):
                    continue
                told = (
                    ", ".join(
                        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v:,}"
                        for k, v in value.items()
                    )
                    if isinstance(value, dict)
                    else f"{value:,}"
                )
                lines.append(f"| {key} | {told} |")
    for name, one in results.items():
        machine = one["machine"]
        lines += [
            "",
            f"*{name}*: commit {one['commit']}, {one['date']}, {machine['processor']}, "
            f"{machine['cores']} cores, load before {machine['load_before']}.",
        ]
    return "\n".join(lines)


def write_page(results: dict) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def main() -> int:
    measures = {
        "ngram13": partial(against_datatrove, what="ngram13"),
        "minhash": partial(against_datatrove, what="minhash"),
        "speed": speed,
        "rate": rate,
        "recall": recall,
        "libraries": libraries,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("measures", nargs="*", help=f"default: all of {', '.join(measures)}")
    parser.add_argument(
        "--peer-python", type=Path, default=os.environ.get("CURATE_PEER_PYTHON", "python3")
    )
    parser.add_argument("--mb", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--speed-mb", type=int, default=300)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "bench" / "curate")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks/curate.*")
    args = parser.parse_args()
    unknown = sorted(set(args.measures) - set(measures))
    if unknown:
        parser.error(f"no measure {', '.join(unknown)}; there are {', '.join(measures)}")
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    path = PAGE.with_suffix(".json") if args.record else args.work / "results.json"
    results = load_results(path)
    for name in args.measures or measures:
        described = describe_run()
        results[name] = measures[name](args) | described
        results = {key: results[key] for key in measures if key in results}
        save_results(path, results)
        print(table({name: results[name]}), flush=True)
        if args.record:
            write_page(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
