"""The loop: rounds until a round takes what was taken before. Writes 20_curate/recall/.

A round's folder carries a key of all that decides it and its stats.json last, so a killed loop goes
on where it was, and after a change only the rounds that it concerns are made again.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open, read_json, sha256_json, write_json, write_text
from megatron_math.base.log import log
from megatron_math.base.records import Record
from megatron_math.curate.order import Order
from megatron_math.curate.recall.config import RecallConfig
from megatron_math.curate.recall.domains import grow, on_paths, read_paths
from megatron_math.curate.recall.linear import probability
from megatron_math.curate.recall.pages import survey
from megatron_math.curate.recall.round import (
    CLAIMED_SECONDS,
    Material,
    help_to_score,
    make_round,
    read_collected,
    read_key,
    read_scores,
)

NEVER = 0


@dataclass(frozen=True)
class Recalled:
    """What the loop found. num_pages: of each source of the pool. rounds_N: int16, the round that
    took each page first, or NEVER. scores_N: of the last round. rounds: what each one counted."""

    num_pages: dict[str, int]
    rounds_N: npt.NDArray[np.int16]
    scores_N: npt.NDArray[np.float64]
    rounds: list[dict[str, Any]]


def recall(order: Order) -> "Recall":
    """Make the rounds that are missing; the sieve that lets pass what was collected."""
    config = order.config.recall
    assert config is not None
    folder = order.stage.folder / "recall"
    with _alone(folder, partial(_help, order, config, folder)):
        found = _loop(order, config, folder)
    return Recall(found, config)


class Recall:
    """Drops the pool's pages that no round took. The first sieve: it counts the records."""

    def __init__(self, recalled: Recalled, config: RecallConfig) -> None:
        self._recalled, self._has_records = recalled, config.left_out == "records"
        ends = np.cumsum(list(recalled.num_pages.values())).tolist()
        begins = [0, *ends[:-1]]
        self._next = dict(zip(recalled.num_pages, begins, strict=True))
        self._ends = dict(zip(recalled.num_pages, ends, strict=True))

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        return [self._drop(record) for record in records]

    def report(self) -> dict[str, Any]:
        """For stats.json."""
        rounds = self._recalled.rounds
        return {"collected": rounds[-1]["collected"], "rounds": rounds}

    def _drop(self, record: Record) -> dict[str, Any] | None:
        number = self._next.get(record.source)
        if number is None:
            return None
        assert number < self._ends[record.source], f"{record.source} grew while it was read"
        self._next[record.source] = number + 1
        score = round(float(self._recalled.scores_N[number]), 4)
        taken_in = int(self._recalled.rounds_N[number])
        if taken_in != NEVER:
            record.meta["recall"] = {"score": score, "round": taken_in}
            return None
        drop: dict[str, Any] = {"reason": "not recalled", "score": score}
        if self._has_records:
            return drop
        gone = ("text", "problem", "solution", "answer")
        kept = {"url": record.meta["url"]} if "url" in record.meta else {}
        return {name: None for name in gone if getattr(record, name) is not None} | {
            "meta": kept,
            **drop,
        }


def _pool(order: Order, config: RecallConfig) -> dict[str, list[Path]]:
    return {name: order.files[name] for name in order.files if name in (config.pool or order.files)}


def _help(order: Order, config: RecallConfig, folder: Path) -> None:
    """What another process's rounds leave to do for us, if they are over our own files."""
    files = [path for paths in _pool(order, config).values() for path in paths]
    ours = sha256_json(_inputs(order, config))
    for here in folder.glob("round_*"):
        with suppress(FileNotFoundError):  # it is made anew
            # the survey's key is written before a round's, so this order never mixes two pools
            key = read_key(here)
            if read_key(folder / "survey") == ours and not (here / "collected.npy").is_file():
                help_to_score(files, here, key, config.workers)


def _inputs(order: Order, config: RecallConfig) -> dict[str, Any]:
    """Fingerprints of the files of the pool and of both classes' examples."""
    seen = {name: item.fingerprint for name, item in order.stage.inputs.items()}
    pool = _pool(order, config).items()
    read = [f"source {name} {n}" for name, paths in pool for n in range(len(paths))]
    read += [name for name in seen if name.startswith(("recall seed ", "recall general "))]
    return {"files": [[name, seen[name]] for name in read]}


def _loop(order: Order, config: RecallConfig, folder: Path) -> Recalled:
    pool = _pool(order, config)
    files = [path for paths in pool.values() for path in paths]
    inputs = _inputs(order, config)
    _keep_if(folder / "survey", sha256_json(inputs))
    seed, general = order.examples["recall seed"], order.examples["recall general"]
    known = survey(files, seed, general, folder / "survey")
    if not len(known):
        raise UserError(f"curate.recall: there are no records in {', '.join(pool)}")
    material = Material(config, order.road.seed, files, seed, general, known)
    rule, on_paths_N = config.domains, None
    if rule is not None and rule.paths is not None:
        on_paths_N = on_paths(files, read_paths(rule.paths))
    key = _first_key(config, order.road.seed, inputs)
    joined_N = collected_N = np.zeros(len(known), bool)
    rounds_N = np.zeros(len(known), np.int16)
    made: list[dict[str, Any]] = []
    for number in range(1, (config.rounds if rule is not None else 1) + 1):
        here = folder / f"round_{number}"
        _keep_if(here, key)
        if not (here / "stats.json").is_file():
            counts = make_round(number, material, joined_N, collected_N, here)
            write_json(here / "stats.json", {"round": number} | counts)
        made.append(read_json(here / "stats.json"))
        collected_N = read_collected(here, len(known))
        rounds_N[collected_N & (rounds_N == NEVER)] = number
        if rule is not None:
            growth = grow(known, collected_N, rule, on_paths_N)
            joined_N = joined_N | growth.joins_N
            _write_lines(here / "domains.jsonl", growth.domains)
            made[-1] |= {"domains": len(growth.domains), "joins the seed": int(joined_N.sum())}
            paths_read = order.stage.inputs.get("recall paths")
            said = rule.identity() | {"paths": paths_read and paths_read.fingerprint}
            key = sha256_json({"round": number + 1, "after": key, "rule": said})
        log.info("recall: %s", made[-1])
        if number > 1 and made[-1]["overlap"] >= config.overlap:
            break
    for later in set(folder.glob("round_*")) - {folder / f"round_{row['round']}" for row in made}:
        shutil.rmtree(later)
    sizes = iter(known.num_pages)
    num_pages = {name: sum(next(sizes) for _ in paths) for name, paths in pool.items()}
    return Recalled(num_pages, rounds_N, probability(read_scores(here, len(files))), made)


def _first_key(config: RecallConfig, seed: int, inputs: dict[str, Any]) -> str:
    """Of the first round: all that decides it; not when the loop ends, nor how the seed grows."""
    identity = config.identity()
    for name in ("rounds", "overlap", "left_out", "domains"):
        del identity[name]
    return sha256_json({"config": identity, "seed": seed} | inputs)


def _keep_if(folder: Path, key: str) -> None:
    """Empty the folder unless it was made under this key."""
    mark = folder / "key"
    if not mark.is_file() or mark.read_text() != key:
        shutil.rmtree(folder, ignore_errors=True)
        write_text(mark, key)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_open(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def _alone(folder: Path, help_out: Callable[[], None]) -> Iterator[None]:
    """Of shards that begin at the same time one makes the rounds; the others help it to score."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                help_out()
                time.sleep(CLAIMED_SECONDS)
        yield
