"""One round: learn the seed from the rest, score the pool, take the best."""

import fcntl
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, read_json, write_json
from megatron_math.base.log import log
from megatron_math.curate.dedup import text_of
from megatron_math.curate.recall.config import RecallConfig
from megatron_math.curate.recall.features import BagReader
from megatron_math.curate.recall.linear import Linear, TrainingTexts, probability
from megatron_math.curate.recall.pages import (
    BoolArray,
    Survey,
    blocks,
    chosen_blocks,
    draw,
    number_of,
)
from megatron_math.curate.source_config import how_many

LEAST_TEXTS = 10
"""Of a class; fewer teach nothing."""
CLAIMED_SECONDS = 1.0
"""Until it is looked again whether a file that another process scores is done."""


@dataclass(frozen=True)
class Material:
    """What every round reads. files: of the pool, numbered through all its sources."""

    config: RecallConfig
    random_seed: int
    files: list[Path]
    seed: list[Path]
    general: list[Path]
    survey: Survey


def make_round(
    number: int, material: Material, joined_N: BoolArray, collected_N: BoolArray, folder: Path
) -> dict[str, Any]:
    """Write a round's classifier, scores and pages into `folder`; what is there is not made again.

    joined_N: pages that the seed has taken up. collected_N: pages that earlier rounds took. Returns
    the counts.
    """
    classifier = folder / "classifier.npy"
    if not classifier.is_file():
        linear, learned = _learn(number, material, joined_N, collected_N, folder)
        write_json(folder / "learned.json", learned)
        linear.save(classifier)
    learned = read_json(folder / "learned.json")
    score_files(classifier, material.files, folder, material.config.workers)
    scores_N = read_scores(folder, len(material.files))
    taken_N, lowest = take(scores_N, read_words(folder, len(material.files)), material.config)
    num_taken, num_before = int(taken_N.sum()), int((taken_N & collected_N).sum())
    collected_N = collected_N | taken_N
    with atomic_open(folder / "collected.npy", "wb") as file:
        np.save(file, np.packbits(collected_N))
    return learned | {
        "taken": num_taken,
        "taken before": num_before,
        "overlap": round(num_before / max(1, num_taken), 4),
        "collected": int(collected_N.sum()),
        "lowest score taken": round(float(probability(lowest)), 4),
    }


def score_files(classifier: Path, pool: Sequence[Path], folder: Path, workers: int) -> None:
    """Score the files of the pool that `folder` has no scores of, and wait for those that other
    processes score; what one that was killed has left is free again."""
    key = read_key(folder)
    while missing := _missing(pool, folder, key):
        if not _score_claimed(classifier, missing, workers):
            time.sleep(CLAIMED_SECONDS)


def help_to_score(pool: Sequence[Path], folder: Path, key: str, workers: int) -> None:
    """Score what the round of this key in `folder` lacks and no other process has in hand."""
    classifier = folder / "classifier.npy"
    if classifier.is_file():
        _score_claimed(classifier, _missing(pool, folder, key), workers)


def _missing(pool: Sequence[Path], folder: Path, key: str) -> list[tuple[Path, Path]]:
    """A file of the pool and where its scores go, of each that has none."""
    pairs = [(path, _scores(folder, n, key)) for n, path in enumerate(pool)]
    return [pair for pair in pairs if not pair[1].is_file()]


def _score_claimed(classifier: Path, missing: list[tuple[Path, Path]], workers: int) -> int:
    """How many files this call has scored."""
    if workers == 1 or len(missing) < 2:
        return sum(_score_unless_claimed(classifier, *pair) for pair in missing)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=spawning) as processes:
        done = [processes.submit(_score_unless_claimed, classifier, *pair) for pair in missing]
        return sum(one.result() for one in as_completed(done))


def _score_unless_claimed(classifier: Path, pool: Path, path: Path) -> bool:
    """Whether the file was free and is scored now. The claim is a lock, which ends with us."""
    with open(path.with_suffix(".claim"), "w") as claim:
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not path.is_file():
            _score(classifier, pool, path)
            log.info("recall: %s is scored", pool)
        return True


def take(
    scores_N: npt.NDArray[np.float32], words_N: npt.NDArray[np.int32], config: RecallConfig
) -> tuple[BoolArray, float]:
    """The pages that fit, best first, of equal ones the earlier, and the last one's score."""
    best_N = np.argsort(-scores_N, kind="stable")
    if config.take is not None:
        num_taken = how_many(config.take, len(best_N))
    else:
        assert config.words is not None
        words = np.cumsum(words_N[best_N], dtype=np.int64)
        num_taken = max(1, int(np.searchsorted(words, config.words, side="right")))
    taken_N = np.zeros(len(best_N), bool)
    taken_N[best_N[:num_taken]] = True
    return taken_N, float(scores_N[best_N[num_taken - 1]])


def read_scores(folder: Path, num_files: int) -> npt.NDArray[np.float32]:
    """float32[pages]: logits."""
    key = read_key(folder)
    parts = [np.load(_scores(folder, n, key))["logits"] for n in range(num_files)]
    return np.concatenate(parts).astype(np.float32)


def read_words(folder: Path, num_files: int) -> npt.NDArray[np.int32]:
    """int32[pages]: words of each."""
    key = read_key(folder)
    parts = [np.load(_scores(folder, n, key))["words"] for n in range(num_files)]
    return np.concatenate(parts).astype(np.int32)


def read_collected(folder: Path, num_pages: int) -> BoolArray:
    """Pages that this round and the earlier ones took."""
    return np.unpackbits(np.load(folder / "collected.npy"), count=num_pages).astype(bool)


def read_key(folder: Path) -> str:
    """Of all that decides what the round in `folder` is."""
    return (folder / "key").read_text()


def _scores(folder: Path, number: int, key: str) -> Path:
    """Under the round's key: what helps a round that is made anew writes what nobody reads."""
    return folder / f"scores_{key[:8]}_{number:05d}.npz"


def _score(classifier: Path, pool: Path, path: Path) -> None:
    linear = Linear.load(classifier)
    reader = linear.reader()
    logits, words = [np.zeros(0, np.float32)], [np.zeros(0, np.int32)]
    for block in blocks([pool]):
        bags = reader.read([text_of(record) for record in block])
        logits.append(linear.logits(bags))
        words.append(bags.num_words.astype(np.int32))
    with atomic_open(path, "wb") as file:
        np.savez(file, logits=np.concatenate(logits), words=np.concatenate(words))


def _learn(
    number: int, material: Material, joined_N: BoolArray, collected_N: BoolArray, folder: Path
) -> tuple[Linear, dict[str, Any]]:
    config, survey = material.config.classifier, material.survey
    own_seed = f"recall {material.random_seed} {number}"
    num_seed, joined = survey.num_seed, np.flatnonzero(joined_N)
    chosen = draw(num_seed + len(joined), config.texts, f"{own_seed} seed")
    is_seed, is_joined_N = chosen[:num_seed], np.zeros(len(survey), bool)
    is_joined_N[joined] = chosen[num_seed:]
    if material.general:
        is_general = draw(survey.num_general, config.texts, f"{own_seed} general")
        is_other_N = np.zeros(len(survey), bool)
    else:
        is_general = np.zeros(0, bool)
        rest = np.flatnonzero(~(joined_N | collected_N))
        is_other_N = np.zeros(len(survey), bool)
        is_other_N[rest[draw(len(rest), config.texts, f"{own_seed} general")]] = True
    with TrainingTexts(
        folder / ".training", BagReader(config.longest_run, config.bits)
    ) as training:
        for records in chosen_blocks(material.seed, is_seed):
            training.add([text_of(record) for record in records], 1)
        for records in chosen_blocks(material.general, is_general):
            training.add([text_of(record) for record in records], 0)
        begin = 0
        for block in blocks(material.files if is_joined_N.any() or is_other_N.any() else []):
            here = slice(begin, begin + len(block))
            for mask_N, label in ((is_joined_N, 1), (is_other_N, 0)):
                texts = [text_of(block[n]) for n in np.flatnonzero(mask_N[here])]
                if texts:
                    training.add(texts, label)
            begin += len(block)
        counts = {"seed": training.num_texts(1), "general": training.num_texts(0)}
        for name, count in counts.items():
            if count < LEAST_TEXTS:
                raise UserError(
                    f"curate.recall, round {number}: {count} {name} texts with words are left to "
                    f"learn from; give at least {LEAST_TEXTS}"
                )
        linear, held_out = training.train(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            min_count=config.min_count,
            seed=number_of(f"{own_seed} order"),
        )
    return linear, {
        "learned from": counts | {"joined": int(is_joined_N.sum())},
        "held out and told apart": held_out,
    }
