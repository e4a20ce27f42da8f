"""Engines side by side: rates of the first and of a second pass, and how many ids agree.

    python tests/bench/tokenizer_engines.py --corpus docs.jsonl --tokenizer tokenizer.json

corpus: JSONL with `text`. tokenizer: a file or folder that megatron_math can load. Installs
nothing; an engine that is not importable, or cannot load this tokenizer, is named with its reason.
Every measurement has a process of its own, with at most --seconds a pass. Rates are MB (10^6 bytes
of UTF-8) a second of wall clock, and a second of processor time in brackets, which is the steadier
one where a machine is shared. Prints a table in Markdown.
"""

import argparse
import importlib
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BATCH_BYTES = 1_900_000  # stays below what gigatoken would spread over threads of its own
NUM_COMPARED = 2000
Rows = Callable[[list[str]], Any]  # texts -> a row of ids each, or (flat ids, lengths)


def ours(tokenizer: Any, engine: str) -> Rows:
    from megatron_math.tokenizer.encoder import flat_texts

    encoder = tokenizer.open_encoder(engine)
    if engine == "auto" and not encoder.name.startswith("gigatoken"):
        raise ValueError(encoder.why)
    return lambda texts: encoder.encode_flat(*flat_texts(texts))


def splintr(_: Any, path: str) -> Rows:
    engine = importlib.import_module("splintr").from_json(path)
    return engine.encode_batch_flat


def snaptokens(_: Any, path: str) -> Rows:
    engine = importlib.import_module("snaptokens").Tokenizer.from_file(path)
    return lambda texts: engine.encode_batch_flat(texts, add_special_tokens=False)


def kitoken(tokenizer: Any, path: str) -> Rows:
    kind = importlib.import_module("kitoken").Kitoken
    if tokenizer.kind == "SentencePieceTokenizer":
        engine = kind.from_sentencepiece_file(str(tokenizer.path))
    else:
        engine = kind.from_tokenizers_file(path)
    return lambda texts: engine.encode_all(texts, True)


def tokie(_: Any, path: str) -> Rows:
    engine = importlib.import_module("tokie").Tokenizer.from_json(path)
    return lambda texts: engine.encode_batch_flat(texts, add_special_tokens=False)


ENGINES: dict[str, tuple[str, Callable[[Any, str], Rows]]] = {  # name -> distribution, opener
    "reference": ("", lambda tokenizer, _: ours(tokenizer, "reference")),
    "gigatoken": ("gigatoken-cachefix", lambda tokenizer, _: ours(tokenizer, "auto")),
    "splintr": ("splintr-rs", splintr),
    "snaptokens": ("snaptokens", snaptokens),
    "kitoken": ("kitoken", kitoken),
    "tokie": ("tokie", tokie),
}


def read_texts(path: str, megabytes: float) -> list[str]:
    """The first texts of a corpus, in one fixed random order."""
    texts, num_bytes = [], 0
    with open(path, "rb") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            num_bytes += len(texts[-1].encode())
            if num_bytes >= megabytes * 1e6:
                break
    random.Random(1).shuffle(texts)
    return texts


def batches_of(texts: list[str]) -> Iterator[tuple[list[str], int]]:
    batch: list[str] = []
    num_bytes = 0
    for text in texts:
        batch.append(text)
        num_bytes += len(text.encode())
        if num_bytes >= BATCH_BYTES:
            yield batch, num_bytes
            batch, num_bytes = [], 0
    if batch:
        yield batch, num_bytes


def rate(rows: Rows, texts: list[str], num_threads: int, seconds: float) -> tuple[float, float]:
    """MB a second, of wall clock and of processor time."""
    todo: queue.SimpleQueue[tuple[list[str], int]] = queue.SimpleQueue()
    for batch in batches_of(texts):
        todo.put(batch)
    started, busy, done = time.perf_counter(), time.process_time(), [0] * num_threads

    def work(number: int) -> None:
        while time.perf_counter() - started < seconds:
            try:
                batch, num_bytes = todo.get_nowait()
            except queue.Empty:
                return
            rows(batch)
            done[number] += num_bytes

    threads = [threading.Thread(target=work, args=(n,)) for n in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, busy = time.perf_counter() - started, time.process_time() - busy
    return sum(done) / 1e6 / took, sum(done) / 1e6 / busy


def as_lists(found: Any) -> list[list[int]]:
    """What an engine gave, as rows of ids: rows, or flat ids with lengths, or with offsets."""
    if not isinstance(found, tuple):
        return [list(map(int, getattr(row, "ids", row))) for row in found]
    ids, bounds = (
        np.frombuffer(part, kind) if isinstance(part, bytes) else np.asarray(part)
        for part, kind in zip(found, (np.uint32, np.uint64), strict=True)
    )
    is_offsets = isinstance(found[1], bytes) or (len(bounds) > 1 and bounds[-1] == len(ids))
    cuts = bounds[1:-1] if is_offsets else np.cumsum(bounds)[:-1]
    return [row.tolist() for row in np.split(ids, cuts.astype(np.int64))]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One engine with one number of threads, in this process."""
    from megatron_math.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer)
    texts = read_texts(args.corpus, args.megabytes)
    content = tokenizer.engine_json()
    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.flush()
        started = time.perf_counter()
        rows = ENGINES[args.one][1](tokenizer, file.name)
        loading = time.perf_counter() - started
    result: dict[str, Any] = {"load_seconds": loading}
    result["first"] = rate(rows, texts, args.threads, args.seconds)
    result["second"] = rate(rows, texts, args.threads, args.seconds)
    if args.threads == 1:
        sample = texts[:NUM_COMPARED]
        expected = tokenizer.encode_batch(sample)
        found = [row for start in range(0, len(sample), 100)
                 for row in as_lists(rows(sample[start : start + 100]))]  # fmt: skip
        pairs = zip(found, expected, strict=True)
        result["equal"] = sum(row == wanted for row, wanted in pairs)
        result["compared"] = len(sample)
    return result


def run(args: argparse.Namespace, engine: str, threads: int) -> dict[str, Any] | str:
    """The result of a process of its own, or why there is none."""
    command = [sys.executable, __file__, "--one", engine, "--threads", str(threads)]
    for name in ("corpus", "tokenizer", "megabytes", "seconds"):
        command += [f"--{name}", str(getattr(args, name))]
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=20 * args.seconds + 60
        )
    except subprocess.TimeoutExpired:
        return "takes too long"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["killed"])[-1][:100]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=list(ENGINES), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    print(
        f"{Path(args.tokenizer).name}, {args.megabytes:g} MB, at most {args.seconds:g} s a pass\n"
    )
    print("| engine | load, s | 1 thread | second pass | 2 threads | second pass | same ids |")
    print("|---|---|---|---|---|---|---|")
    for engine in args.engines.split(","):
        name = f"{engine} {version(ENGINES[engine][0])}" if ENGINES[engine][0] else engine
        one = run(args, engine, 1)
        two = one if isinstance(one, str) else run(args, engine, 2)
        if isinstance(one, str) or isinstance(two, str):
            print(f"| {name} | {one if isinstance(one, str) else two} | | | | | |", flush=True)
            continue
        rates = [f"{w:.1f} ({c:.1f})" for r in (one, two) for w, c in (r["first"], r["second"])]
        equal = f"{one['equal']} of {one['compared']}"
        print(f"| {name} | {one['load_seconds']:.2f} | {' | '.join(rates)} | {equal} |", flush=True)


if __name__ == "__main__":
    main()
