"""The fast engine alone: documents in memory, its own batch calls, nothing read or written.

--mode native: one copy, its own parallel batch call. --mode own: a copy for each of two threads
that take batches from one queue. --mode shared: the same with one copy for both; for batches below
2 MiB it then keeps a cache for each thread. Prints {"seconds", "tokens", "text_bytes", "engine"};
only the encoding is timed, with caches that are empty at first. --cache-mib: their bound, a thread;
the engine's default is 512.
"""

import argparse
import importlib.metadata
import json
import queue
import threading
import time
from typing import Any

import awkward as ak
import gigatoken
import numpy as np

from megatron_math.tokenizer import load_tokenizer

NUM_THREADS = 2


def open_engine(kind: str, model: str) -> Any:
    return gigatoken.Tokenizer.from_json(load_tokenizer(model, kind).engine_json()).backend


def read_batches(path: str, batch_bytes: int) -> list[ak.Array]:
    batches, texts, size = [], [], 0
    with open(path, "rb") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"].encode())
            size += len(texts[-1])
            if size >= batch_bytes:
                batches.append(flat(texts))
                texts, size = [], 0
    return [*batches, flat(texts)] if texts else batches


def flat(texts: list[bytes]) -> ak.Array:
    """Byte strings as one buffer and offsets, which is how the engine likes them best."""
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
    content = ak.contents.NumpyArray(
        np.frombuffer(b"".join(texts), np.uint8), parameters={"__array__": "byte"}
    )
    return ak.Array(
        ak.contents.ListOffsetArray(
            ak.index.Index64(offsets), content, parameters={"__array__": "bytestring"}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--tokenizer-type", required=True)
    parser.add_argument("--tokenizer-model", required=True)
    parser.add_argument("--mode", choices=["native", "own", "shared"], required=True)
    parser.add_argument("--batch-mb", type=float, required=True)
    parser.add_argument("--cache-mib", type=int, default=512)
    args = parser.parse_args()
    gigatoken.set_max_cache_bytes(args.cache_mib * 2**20)
    batches = read_batches(args.corpus, int(args.batch_mb * 1e6))
    num_threads = 1 if args.mode == "native" else NUM_THREADS
    engines = [
        open_engine(args.tokenizer_type, args.tokenizer_model)
        for _ in range(num_threads if args.mode == "own" else 1)
    ]
    waiting: queue.SimpleQueue[ak.Array] = queue.SimpleQueue()
    for batch in batches:
        waiting.put(batch)
    num_tokens = [0] * num_threads

    def work(number: int) -> None:
        while True:
            try:
                batch = waiting.get_nowait()
            except queue.Empty:
                return
            engine = engines[number % len(engines)]
            ids = engine.encode_batch(batch, parallel=args.mode != "own")
            num_tokens[number] += len(ids.layout.content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    said = {
        "seconds": seconds,
        "tokens": sum(num_tokens),
        "text_bytes": sum(len(batch.layout.content) for batch in batches),
        "engine": "gigatoken " + importlib.metadata.version("gigatoken-cachefix"),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
