"""The fast engine alone: documents in memory, its own batch calls, nothing read or written.

--mode native: one encoder, its own parallel batch call. --mode threads: an encoder a thread,
two threads, batches from one queue. Prints {"seconds", "tokens", "text_bytes", "engine"}; only the
encoding is timed, with empty caches.
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

NUM_THREADS = 2


def open_engine(kind: str, model: str) -> Any:
    if kind == "HuggingFaceTokenizer":
        return gigatoken.Tokenizer(model)
    if kind == "TikTokenizer":  # Llama 3's pattern is cl100k's, which the package calls gpt4
        return gigatoken.Tokenizer.from_tiktoken(model, "gpt4", None)
    return gigatoken.Tokenizer.from_sentencepiece(model)


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
    parser.add_argument("--mode", choices=["native", "threads"], required=True)
    parser.add_argument("--batch-mb", type=float, required=True)
    args = parser.parse_args()
    batches = read_batches(args.corpus, int(args.batch_mb * 1e6))
    num_engines = NUM_THREADS if args.mode == "threads" else 1
    engines = [open_engine(args.tokenizer_type, args.tokenizer_model) for _ in range(num_engines)]
    waiting: queue.SimpleQueue[ak.Array] = queue.SimpleQueue()
    for batch in batches:
        waiting.put(batch)
    num_tokens = [0] * num_engines

    def work(number: int) -> None:
        while True:
            try:
                batch = waiting.get_nowait()
            except queue.Empty:
                return
            ids = engines[number].encode_batch(batch, parallel=args.mode == "native")
            num_tokens[number] += len(ids.layout.content)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_engines)]
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
