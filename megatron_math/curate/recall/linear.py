"""A linear classifier over bags of hashed runs of words: fastText's for two classes.

With two classes fastText's product of embeddings and output weights is one number a feature, so
that is what is learned here: the logit is a bias and the mean of the features' weights. Features of
fewer than `min_count` training texts weigh nothing. Plain logistic loss, AdaGrad, batches in an
order that the seed decides: the same texts and seed give the same weights to the bit.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from megatron_math.base.files import atomic_open
from megatron_math.curate.recall.features import BagReader, Bags

BATCH_TEXTS = 64
HELD_OUT = 20
"""One text of so many is not learned from, but tells how well the others were."""
_EPS = 1e-8

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Linear:
    """weights: float32[2 ** bits], of each feature."""

    weights: Float32Array
    bias: float
    longest_run: int

    @property
    def bits(self) -> int:
        return len(self.weights).bit_length() - 1

    def reader(self) -> BagReader:
        return BagReader(self.longest_run, self.bits)

    def logits(self, bags: Bags) -> Float32Array:
        """float32[texts]; a text without words has the bias alone."""
        counts_D = np.diff(bags.offsets)
        sums_D = np.zeros(len(counts_D))
        has_words = counts_D > 0
        if has_words.any():
            weights_F = self.weights[bags.features].astype(np.float64)
            sums_D[has_words] = np.add.reduceat(weights_F, bags.offsets[:-1][has_words])
        return (self.bias + sums_D / np.maximum(counts_D, 1)).astype(np.float32)

    def save(self, path: Path) -> None:
        """float32[2 ** bits + 2]: bias, longest run of words, weights."""
        with atomic_open(path, "wb") as file:
            head = np.array([self.bias, self.longest_run], np.float32)
            np.save(file, np.concatenate([head, self.weights]))

    @staticmethod
    def load(path: Path) -> "Linear":
        values = np.load(path)
        return Linear(values[2:], float(values[0]), int(values[1]))


def probability(logit: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.asarray(logit, np.float64)))


class TrainingTexts:
    """Bags of training texts, kept in a file of 4 bytes a feature: memory is a few bytes a text."""

    def __init__(self, path: Path, reader: BagReader) -> None:
        self._path, self._reader, self._files = path, reader, ExitStack()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "wb")  # noqa: SIM115 - closed by the stack
        self._file: IO[bytes] = self._files.enter_context(file)
        self._counts: list[npt.NDArray[np.int64]] = []
        self._labels: list[npt.NDArray[np.int8]] = []

    def __enter__(self) -> "TrainingTexts":
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()
        self._path.unlink(missing_ok=True)

    def add(self, texts: Sequence[str], label: int) -> None:
        """label: 1 for what is looked for, 0 for the rest. Texts without words are passed over."""
        bags = self._reader.read(texts)
        counts = np.diff(bags.offsets)
        self._file.write(bags.features.tobytes())
        self._counts.append(counts[counts > 0])
        self._labels.append(np.full(int((counts > 0).sum()), label, np.int8))

    def num_texts(self, label: int) -> int:
        return sum(int((labels == label).sum()) for labels in self._labels)

    def train(
        self, *, epochs: int, learning_rate: float, min_count: int, seed: int
    ) -> tuple[Linear, dict[str, float]]:
        """The classifier, and how well it tells apart texts that it did not learn from: the share
        of each class that it is right about. Both classes weigh alike, however many texts each has.
        """
        self._file.flush()
        counts_D = np.concatenate(self._counts)
        labels_D = np.concatenate(self._labels).astype(np.float64)
        offsets_D = np.append(0, np.cumsum(counts_D))
        features = np.memmap(self._path, np.uint32, "r", shape=(int(offsets_D[-1]),))
        is_known = _seen_in(features, offsets_D, self._reader.bits) >= min_count
        random = np.random.default_rng(seed)
        held_out, learned = np.split(random.permutation(len(counts_D)), [len(counts_D) // HELD_OUT])
        share = labels_D[learned].mean()
        class_weight_D = np.where(labels_D > 0, 0.5 / share, 0.5 / (1 - share))
        weights = np.zeros(1 << self._reader.bits, np.float32)
        squares = np.zeros_like(weights)
        bias = bias_square = 0.0
        for _ in range(epochs):
            order = random.permutation(learned)
            for at in range(0, len(order), BATCH_TEXTS):
                batch = order[at : at + BATCH_TEXTS]
                bag_F = np.concatenate([features[offsets_D[n] : offsets_D[n + 1]] for n in batch])
                counts_B = counts_D[batch]
                used, place_F = np.unique(bag_F, return_inverse=True)
                begins_B = np.append(0, np.cumsum(counts_B))[:-1]
                sums_B = np.add.reduceat(weights[used][place_F].astype(np.float64), begins_B)
                found_B = probability(bias + sums_B / counts_B)
                error_B = (found_B - labels_D[batch]) * class_weight_D[batch]
                spread_F = np.repeat(error_B / counts_B, counts_B)
                gradient = np.bincount(place_F, weights=spread_F, minlength=len(used))
                gradient *= is_known[used]
                squares[used] += (gradient**2).astype(np.float32)
                step = learning_rate * gradient / (np.sqrt(squares[used]) + _EPS)
                weights[used] -= step.astype(np.float32)
                gradient_bias = float(error_B.sum())
                bias_square += gradient_bias**2
                bias -= learning_rate * gradient_bias / (bias_square**0.5 + _EPS)
        linear = Linear(weights, float(np.float32(bias)), self._reader.longest_run)
        return linear, _told_apart(linear, features, offsets_D, labels_D, np.sort(held_out))


def _told_apart(
    linear: Linear,
    features: npt.NDArray[np.uint32],
    offsets_D: npt.NDArray[np.int64],
    labels_D: npt.NDArray[np.float64],
    held_out: npt.NDArray[np.int64],
) -> dict[str, float]:
    is_right: dict[str, list[bool]] = {"seed": [], "general": []}
    for n in held_out:
        bag = features[offsets_D[n] : offsets_D[n + 1]]
        logit = linear.bias + linear.weights[bag].mean(dtype=np.float64)
        is_right["seed" if labels_D[n] else "general"].append((logit > 0) == (labels_D[n] > 0))
    return {name: round(float(np.mean(right)), 4) for name, right in is_right.items() if right}


def _seen_in(
    features: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], bits: int
) -> npt.NDArray[np.uint16]:
    """uint16[2 ** bits]: in how many texts each feature is, up to 65,535."""
    seen = np.zeros(1 << bits, np.uint16)
    for begin, end in zip(offsets[:-1], offsets[1:], strict=True):
        own = np.unique(features[begin:end])
        own = own[seen[own] < np.iinfo(np.uint16).max]
        seen[own] += 1
    return seen
