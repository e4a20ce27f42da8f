"""A number for a set of samples that says which they are: it is the sum of one for each sample.

So it does not matter over how many ranks, micro-batches or steps they were dealt out, and a sample
that is lost, seen twice, or read otherwise than the plan says changes it.
"""

import numpy as np
import numpy.typing as npt

from megatron_math.dataset.batch import Batch

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64


def samples_digest(
    samples_B: npt.NDArray[np.int64], batch: Batch, real_B: npt.NDArray[np.bool_] | bool = True
) -> int:
    """Of samples of one stage: numbers, tokens, labels, and which labels count. 64 bits.

    real_B: those that are counted; the others fill up the batch.
    """
    with np.errstate(over="ignore"):
        length = batch.tokens_BS.shape[1]
        place_S = (np.arange(1, length + 1, dtype=np.uint64) * _ODD) | np.uint64(1)
        counts_BS = (batch.loss_mask_BS != 0).astype(np.uint64)
        values_BS = batch.tokens_BS.astype(np.uint64) * _MIX[0]
        values_BS += (batch.labels_BS.astype(np.uint64) * np.uint64(2) + counts_BS) * _MIX[1]
        sums_B = _mixed(values_BS @ place_S)
        sums_B = _mixed(sums_B + samples_B.astype(np.uint64) * _ODD + np.uint64(length))
        return int(sums_B.sum(dtype=np.uint64, where=real_B))


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX[0]
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX[1]
    return numbers ^ (numbers >> np.uint64(31))
