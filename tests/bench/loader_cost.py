"""What reading real data costs a CPU training run: real against mock data, in alternated runs.

    python tests/bench/loader_cost.py [--work DIR] [--pairs N] [--steps N]

Both sides are the command `megatron-math train ROAD`, one with --mock-data: a model of 0.9 M
parameters, 8 samples of 256 tokens a step, attention across documents so that both compute the
same. The cost of a pair is mock over real tokens/s, less one; over all pairs the median and an
interval that covers it in at least 95 of 100 cases (order statistics; the extremes below 6 pairs).
Beside it, as shares of a step and not touched by noise between runs: what the loop waited for data
(data_wait_ms), and what the reading takes where nothing runs beside it, which bounds the cost on a
machine whose cores are all at work. The last line is JSON.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CLI = (sys.executable, "-m", "megatron_math.cli")
GLOBAL_BATCH_SIZE, SEQUENCE_LENGTH, WARM_UP_STEPS = 8, 256, 10
ROAD = """name: loader_cost
base: {{preset: tiny}}
model: {{vocab_size: 1536}}
index:
  tokenizer: {{train: {{vocab_size: 1536}}}}
  sources: {{general: {{path: {corpus}}}}}
blend:
  sequence_length: {sequence_length}
  tokens: {tokens}
  mix: {{general: {{share: 1, attend: across}}}}
precision: {{dtype: fp32}}
train: {{global_batch_size: {batch}, micro_batch_size: {batch}, lr: 1e-3, validation_samples: 0,
  tensorboard: false, log_interval: 1000}}
checkpoint: {{interval: 1000000, keep: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Real against mock data in training runs.")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "bench" / "loader")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    road = prepare(arguments.work, arguments.steps)

    real: list[float] = []
    mock: list[float] = []
    waits: list[float] = []
    step_ms = 0.0
    for pair in range(arguments.pairs):
        sides = [("50_train", real), ("50_train_mock", mock)]
        for stage, rates in sides if pair % 2 == 0 else sides[::-1]:  # drift favours neither
            rows = train(road, stage)
            seconds = sum(row["elapsed_ms"] for row in rows) / 1e3
            rates.append(len(rows) * GLOBAL_BATCH_SIZE * SEQUENCE_LENGTH / seconds)
            if stage == "50_train":
                waits.append(sum(row["data_wait_ms"] for row in rows) / 1e3 / seconds)
                step_ms = statistics.median(row["elapsed_ms"] for row in rows)
        print(f"pair {pair + 1}: real {real[-1]:.0f}, mock {mock[-1]:.0f} tokens/s")
    costs = [m / r - 1 for r, m in zip(real, mock, strict=True)]
    low, high = interval(costs)
    result = {
        "cost": {"median": statistics.median(costs), "low": low, "high": high, "pairs": len(costs)},
        "wait_share": statistics.median(waits),
        "reading_share": reading_ms(road) / step_ms,
        "step_ms": step_ms,
        "real_tokens_per_second": real,
        "mock_tokens_per_second": mock,
    }
    print(json.dumps(result))


def prepare(work: Path, steps: int) -> Path:
    """The road file, with everything before training done. Returns its path."""
    corpora = REPOSITORY / "examples" / "00_quickstart_cpu" / "corpora.py"
    if not (work / "corpora" / "general.jsonl").is_file():
        subprocess.run([sys.executable, corpora, work / "corpora"], check=True)
    road = work / "road.yaml"
    text = ROAD.format(
        corpus=work / "corpora" / "general.jsonl",
        sequence_length=SEQUENCE_LENGTH,
        tokens=steps * GLOBAL_BATCH_SIZE * SEQUENCE_LENGTH,
        batch=GLOBAL_BATCH_SIZE,
    )
    road.write_text(text)
    command = [*CLI, "run", road, "--runs", work / "runs", "--to", "blend"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return road


def train(road: Path, stage: str) -> list[dict[str, float]]:
    """Train from the beginning; the rows of all steps but the first ones."""
    runs = road.parent / "runs"
    folder = runs / "loader_cost" / stage
    shutil.rmtree(folder, ignore_errors=True)
    command = [*CLI, "train", road, "--runs", runs]
    command += ["--mock-data"] if stage == "50_train_mock" else []
    subprocess.run(command, check=True, capture_output=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[WARM_UP_STEPS:]]


def reading_ms(road: Path) -> float:
    """Milliseconds to read one step of the road's plan in this process, the median of all."""
    import torch

    from megatron_math.dataset.plan import load_plan
    from megatron_math.train.config import TrainConfig
    from megatron_math.train.feed import Feed

    feed = Feed(
        load_plan(road.parent / "runs" / "loader_cost" / "40_blend"),
        TrainConfig(
            global_batch_size=GLOBAL_BATCH_SIZE, micro_batch_size=GLOBAL_BATCH_SIZE, lr=1e-3
        ),
        data_rank=0,
        data_size=1,
        torch_device=torch.device("cpu"),
    )
    seconds = []
    for iteration in range(feed.num_iterations):
        begun = time.perf_counter()
        feed.microbatches(iteration)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds) * 1e3


def interval(values: list[float]) -> tuple[float, float]:
    """The two values between which the median lies in at least 95 of 100 cases."""
    ordered, n = sorted(values), len(values)
    outside, skipped = 0.0, 0
    while (outside := outside + math.comb(n, skipped) / 2**n) <= 0.025 and skipped < n // 2:
        skipped += 1
    skipped = max(1, skipped)
    return ordered[skipped - 1], ordered[n - skipped]


if __name__ == "__main__":
    main()
