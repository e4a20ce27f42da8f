"""Quality as a sieve: scores go into `meta.quality`, and the worst go."""

import json
import shutil
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math.base.files import atomic_open
from megatron_math.base.records import Record
from megatron_math.curate.lines import json_line
from megatron_math.curate.quality.config import QualityConfig
from megatron_math.curate.quality.scorers import Scorer
from megatron_math.curate.source_config import how_many

REASON = "quality"


class Quality:
    """The last sieve: what passes it is what is kept, in its order."""

    def __init__(self, config: QualityConfig, scorer: Scorer) -> None:
        self._config, self._scorer = config, scorer
        self._scores: dict[str, array[float]] = {}
        self._unscored: Counter[str] = Counter()

    def judge(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        scores = self._scorer.scores(records)
        return [self._drop(*pair) for pair in zip(records, scores, strict=True)]

    def finish(self, folder: Path, sources: dict[str, Any]) -> None:
        """Keep the best of each source, as asked, and add to its counts."""
        for name, counts in sources.items():
            scores = self._scores.get(name, array("d"))
            said: dict[str, Any] = {"not scored": self._unscored[name]}
            if scores:
                tenths = np.nanquantile(np.array(scores), np.linspace(0, 1, 11))
                said["scores in tenths"] = [round(float(value), 4) for value in tenths]
            keep = self._config.kept(name)
            if keep is not None:
                _keep_best(folder, name, np.array(scores), how_many(keep, len(scores)), counts)
            counts["quality"] = said

    def _drop(self, record: Record, score: float | None) -> dict[str, Any] | None:
        config = self._config
        if score is None:
            self._unscored[record.source] += 1
            if config.least is not None or config.kept(record.source) is not None:
                return {"reason": REASON, "score": None}
            return None
        score = round(score, 6)
        record.meta["quality"] = score
        if config.least is not None and score < config.least:
            return {"reason": REASON, "score": score, "least": config.least}
        if config.most is not None and score > config.most:
            return {"reason": REASON, "score": score, "most": config.most}
        self._scores.setdefault(record.source, array("d")).append(score)
        return None


def _keep_best(
    folder: Path, name: str, scores_N: np.ndarray, num_kept: int, counts: dict[str, Any]
) -> None:
    """Of equal ones the earlier stay. `counts` is brought up to date."""
    ranks_N = np.empty(len(scores_N), np.int64)
    ranks_N[np.argsort(-scores_N, kind="stable")] = np.arange(len(scores_N))
    path, drops = folder / f"{name}.jsonl", folder / "drops" / f"{name}.jsonl"
    with atomic_open(path, "wb") as kept, atomic_open(drops, "wb") as dropped:
        with open(drops, "rb") as earlier:
            shutil.copyfileobj(earlier, dropped)
        with open(path, "rb") as lines:
            for line, rank, score in zip(lines, ranks_N.tolist(), scores_N.tolist(), strict=True):
                if rank < num_kept:
                    kept.write(line)
                    continue
                said = {"reason": REASON, "score": score, "rank": rank + 1}
                dropped.write(json_line(json.loads(line) | said))
    num_dropped = len(scores_N) - num_kept
    counts["kept"] -= num_dropped
    counts["dropped"] += num_dropped
    if num_dropped:
        reasons = Counter(counts["reasons"]) + Counter({REASON: num_dropped})
        counts["reasons"] = dict(sorted(reasons.items()))
