"""50_train of a run that was killed twice and failed once, with times that are easy to add up."""

import json
from pathlib import Path
from typing import Any

from megatron_math.watch.launches import FILE


def write_lines(path: Path, rows: list[dict[str, Any]], tail: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def step(iteration: int, at: float, seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"iteration": iteration, "elapsed_ms": 1000 * seconds, "time": at,
            "consumed_tokens": 10 * iteration, "tokens_per_second": 10 / seconds,
            "stage": "cpt"} | more  # fmt: skip


def event(launch: int, kind: str, at: float, **more: Any) -> dict[str, Any]:
    return {"event": kind, "time": at, "launch": launch} | more


STAGES = [{"stage": "cpt", "first": 0, "end": 20}]


def write_hand_made(folder: Path) -> None:
    """20 steps of 1 s. Launch 0 begins at 1000, ends its steps 1 to 7 at 1011 to 1017, is killed.
    Launch 1 begins at 1030 and is killed while it loads. Launch 2 begins at 1050 and goes on
    from step 5, so that two steps are made again; its steps 6 to 9 end at 1058 to 1061, and it
    fails at 1063. Launch 3 begins at 1100, goes on from 9, ends its steps 10 to 20 at 1105 to
    1115 and itself at 1116.
    """
    write_lines(
        folder / FILE,
        [
            event(0, "begin", 1000.0, world=2, host="a", slurm_job="7"),
            event(0, "loaded", 1008.0, **{"iteration": 0, "from": "base"}, stages=STAGES),
            event(0, "step", 1011.0, iteration=1, seconds=1.0),
            event(1, "begin", 1030.0, world=2, host="b"),
            event(2, "begin", 1050.0, world=2, host="b"),
            event(2, "loaded", 1056.0, **{"iteration": 5, "from": "iter_0000005"}, stages=STAGES,
                  before={"iteration": 7, "time": 1017.0, "steps": 2, "seconds": 2.0}),
            event(2, "step", 1058.0, iteration=6, seconds=1.0),
            event(2, "end", 1063.0, iteration=9, cause="error: RuntimeError: planted"),
            event(3, "begin", 1100.0, world=2, host="b"),
            event(3, "loaded", 1103.0, **{"iteration": 9, "from": "iter_0000009"}, stages=STAGES,
                  before={"iteration": 9, "time": 1061.0, "steps": 0, "seconds": 0.0}),
            event(3, "step", 1105.0, iteration=10, seconds=1.0),
            event(3, "end", 1116.0, iteration=20, cause="done"),
        ],
    )  # fmt: skip
    times = [*range(1011, 1016), *range(1058, 1062), *range(1105, 1116)]
    rows = [step(number, float(at)) for number, at in enumerate(times, start=1)]
    write_lines(folder / "metrics.jsonl", rows)
