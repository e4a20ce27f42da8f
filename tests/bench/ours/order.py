"""Our order of one epoch with every id delivered: what a plan computes and what a reader decodes.

First the plan's pass (tokens of every segment), then, some segments at a time in threads, the
document at each position and where each sample begins (position, token). Prints {"seconds",
"plan_seconds", "documents", "samples"}; that the documents are a permutation is checked after the
clock has stopped.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from megatron_math.native.order import document_totals, epoch_documents

SPLIT_KEY, EPOCH_KEY = 0x1234_5678_9ABC_DEF0, 0x0FED_CBA9_8765_4321
SEGMENT_DOCUMENTS = 128
AT_ONCE = 1 << 15


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    lengths = np.load(args.lengths)
    num_documents, length = len(lengths), args.sequence_length
    firsts = range(0, num_documents, AT_ONCE)
    num_parts = 4 * args.threads
    edges = [part * num_documents // num_parts for part in range(num_parts + 1)]

    def totals(part: int) -> np.ndarray:
        first, end = edges[part : part + 2]
        return document_totals(
            lengths[first:end], first, num_documents, SPLIT_KEY, EPOCH_KEY, 0, 1, SEGMENT_DOCUMENTS
        )

    documents = np.empty(num_documents, dtype=np.int32)  # as core's

    def deliver(first: int) -> np.ndarray:
        number = min(AT_ONCE, num_documents - first)
        found, tokens = epoch_documents(lengths, SPLIT_KEY, EPOCH_KEY, 0, first, number)
        documents[first : first + number] = found
        before = int(tokens_before[first // SEGMENT_DOCUMENTS])
        ends = np.cumsum(tokens)
        begins = np.arange(-before % length, int(ends[-1]), length)
        position = np.searchsorted(ends, begins, side="right")
        return np.stack([first + position, begins - ends[position] + tokens[position]], axis=1)

    begun = time.perf_counter()
    with ThreadPoolExecutor(args.threads) as threads:
        table = sum(threads.map(totals, range(num_parts)))[:, 0]
        tokens_before = np.concatenate([[0], np.cumsum(table)])
        planned = time.perf_counter()
        samples = np.concatenate(list(threads.map(deliver, firsts)))
    ended = time.perf_counter()
    assert np.bincount(documents, minlength=num_documents).max() == 1
    assert len(samples) == -(-int(tokens_before[-1]) // length)
    said = {
        "seconds": ended - begun,
        "plan_seconds": planned - begun,
        "documents": len(documents),
        "samples": len(samples),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
