"""megatron-core's document, sample and shuffle index of one epoch, as GPTDataset builds them.

Calls the very functions that GPTDataset calls, in its order, without writing a cache. Prints
{"seconds", "documents", "samples"}; imports and the loading of the lengths are not timed.
"""

import argparse
import json
import time

import numpy as np
from megatron.core.datasets import helpers
from megatron.core.datasets.gpt_dataset import _build_document_index, _build_shuffle_index


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", required=True)
    parser.add_argument("--sequence-length", type=int, required=True)
    args = parser.parse_args()
    lengths = np.load(args.lengths)
    begun = time.perf_counter()
    indices = np.arange(len(lengths), dtype=np.int32)
    tokens_per_epoch = int(np.sum(lengths[indices]))
    random_state = np.random.RandomState(1234)
    documents = _build_document_index(indices, 1, random_state, False)
    samples = helpers.build_sample_idx(
        lengths.copy(), documents, args.sequence_length, 1, tokens_per_epoch, True, True
    )
    num_samples = len(samples) - 1
    shuffle = _build_shuffle_index(num_samples, num_samples, random_state)
    seconds = time.perf_counter() - begun
    assert len(documents) == len(lengths)
    assert len(shuffle) == num_samples
    print(json.dumps({"seconds": seconds, "documents": len(documents), "samples": num_samples}))


if __name__ == "__main__":
    main()
