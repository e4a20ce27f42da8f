"""What a run writes about itself: metrics.jsonl, validation.jsonl, Megatron-LM's log line,
TensorBoard with Megatron-LM's tags, and Weights & Biases when asked. The last rank writes.

A resumed run first cuts everything behind its checkpoint away, so each iteration stands once.
"""

import json
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from megatron_math.base.errors import UserError
from megatron_math.base.files import atomic_open
from megatron_math.base.log import log
from megatron_math.train.config import TrainConfig
from megatron_math.train.watch import Watch


class Metrics:
    """Open for appending; lines up to iteration `kept_to` stay, none with -1."""

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        *,
        kept_to: int,
        num_iterations: int,
        name: str,
        watch: Watch | None = None,
    ) -> None:
        self.folder, self._num_iterations, self._watch = folder, num_iterations, watch
        self._log_interval = config.log_interval
        self._metrics, self._validation = _open_rows(folder, kept_to)
        self._log = open(folder / "log.txt", "a", encoding="utf-8")  # noqa: SIM115
        self._board = _open_tensorboard(folder, kept_to) if config.tensorboard else None
        self._wandb = _open_wandb(folder, config, name) if config.wandb else None

    def step(self, row: dict[str, Any], *, global_batch_size: int) -> None:
        """One training iteration; `row` is the object that metrics.jsonl gets."""
        row = row | {"time": round(time.time(), 3)}
        if self._watch is not None:
            self._watch.step(row)
        _append(self._metrics, row)
        samples = row["consumed_samples"]
        scalars = {
            "lm loss": row["lm loss"],
            "grad-norm": row["grad-norm"],
            "learning-rate": row["learning-rate"],
            "batch-size": global_batch_size,
            "iteration-time": row["elapsed_ms"] / 1000,
            "throughput/tokens_per_sec": row["tokens_per_second"],
            "throughput/tflops/device": row["tflops"],
            **({"throughput/mfu": row["mfu"]} if "mfu" in row else {}),
        } | {
            key: value
            for key, value in row.items()
            if key.startswith(("loss/", "fp8/", "peak_")) or key == "load_balancing_loss"
        }
        self._scalars(scalars, row["iteration"], samples)
        if row["iteration"] % self._log_interval == 0 or row["iteration"] == self._num_iterations:
            self.say(log_line(row, self._num_iterations, global_batch_size))

    def validation(self, iteration: int, consumed_samples: int, results: dict[str, Any]) -> None:
        """Held-out losses: results maps a source to (loss, tokens)."""
        losses = {source: loss for source, (loss, _) in results.items()}
        tokens = {source: count for source, (_, count) in results.items()}
        row = {"iteration": iteration, "consumed_samples": consumed_samples}
        _append(self._validation, row | {"loss": losses, "tokens": tokens})
        if self._watch is not None:
            self._watch.validated(losses)
        mean = sum(losses[s] * tokens[s] for s in losses) / max(1, sum(tokens.values()))
        scalars = {"lm loss validation": mean} | {
            f"lm loss validation/{source}": loss for source, loss in losses.items()
        }
        self._scalars(scalars, iteration, consumed_samples)
        each = " | ".join(f"{source}: {loss:.6E}" for source, loss in losses.items())
        self.say(
            f" validation loss at iteration {iteration} | lm loss value: {mean:.6E} | {each} |"
        )

    def cut(self, iteration: int) -> None:
        """Take away what is behind `iteration`: the run goes on from there."""
        self._metrics.close()
        self._validation.close()
        self._metrics, self._validation = _open_rows(self.folder, iteration)

    def newest(self, num_rows: int) -> list[dict[str, Any]]:
        """The last rows of metrics.jsonl, oldest first."""
        with open(self.folder / "metrics.jsonl", encoding="utf-8") as file:
            return [json.loads(line) for line in deque(file, maxlen=num_rows)]

    def phases(self, seconds: dict[str, float]) -> None:
        """Where the time of this launch went."""
        each = " | ".join(f"{name}: {value:.3f}" for name, value in seconds.items())
        self.say(f" time by phase of this launch (s) | {each} |")

    def say(self, line: str) -> None:
        self._log.write(line + "\n")
        self._log.flush()
        log.debug("%s", line)
        print(line, flush=True)  # noqa: T201 - everyone greps Megatron-LM's line on stdout

    def close(self) -> None:
        for file in (self._metrics, self._validation, self._log):
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _scalars(self, scalars: dict[str, float], iteration: int, samples: int) -> None:
        if self._board is not None:
            for tag, value in scalars.items():
                self._board.add_scalar(tag, value, iteration)
                if "loss" in tag or tag == "grad-norm":
                    self._board.add_scalar(f"{tag} vs samples", value, samples)
        if self._wandb is not None:
            self._wandb.log(scalars, step=iteration)


def log_line(row: dict[str, Any], num_iterations: int, global_batch_size: int) -> str:
    """Megatron-LM's log line, letter by letter; fields of ours stand at the end."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    line = f" [{stamp}] iteration {row['iteration']:8d}/{num_iterations:8d} |"
    line += f" consumed samples: {row['consumed_samples']:12d} |"
    line += f" elapsed time per iteration (ms): {row['elapsed_ms']:.1f} |"
    line += f" throughput per GPU (TFLOP/s/GPU): {row['tflops']:.1f} |"
    line += f" learning rate: {row['learning-rate']:.6E} |"
    line += f" global batch size: {global_batch_size:5d} |"
    line += f" lm loss: {row['lm loss']:.6E} |"
    line += f" loss scale: {row.get('loss-scale', 1.0):.1f} |"
    line += f" grad norm: {row['grad-norm']:.3f} |"
    line += f" number of skipped iterations: {row.get('skipped', False):3d} |"
    line += " number of nan iterations:   0 |"
    left = (num_iterations - row["iteration"]) * row["elapsed_ms"] / 1000
    line += f" tokens per second: {row['tokens_per_second']:.0f} |"
    line += f" per process: {row['tokens_per_second_per_process']:.0f} |"
    line += f" with full attention (TFLOP/s/GPU): {row['tflops_full']:.1f} |"
    if "mfu" in row:
        line += f" MFU ({row['mfu_peak']} peak): {row['mfu']:.1%} |"
    for kind in ("process", "allocated", "reserved"):
        if (peak := row.get(f"peak_{kind}_bytes")) is not None:
            line += f" {kind} at most (GiB): {peak / 2**30:.2f} |"
    each = ", ".join(f"{name} {value:.1f}" for name, value in row["phases_ms"].items())
    line += f" phases (ms): {each} |"
    line += f" consumed tokens: {row['consumed_tokens']} | time left (s): {left:.0f} |"
    line += f" data wait (ms): {row['data_wait_ms']:.1f} |"
    return line


def _open_rows(folder: Path, kept_to: int) -> tuple[IO[str], IO[str]]:
    files = []
    for name in ("metrics.jsonl", "validation.jsonl"):
        cut_behind(folder / name, kept_to)
        files.append(open(folder / name, "a", encoding="utf-8"))  # noqa: SIM115
    return files[0], files[1]


def cut_behind(path: Path, iteration: int) -> None:
    """Keep the lines up to `iteration`; a line cut short by a kill goes with the rest."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["iteration"] <= iteration:
            kept.append(line)
    with atomic_open(path) as file:
        file.writelines(line + "\n" for line in kept)


def _append(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def _open_tensorboard(folder: Path, iteration: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1, flush_secs=10)


def _open_wandb(folder: Path, config: TrainConfig, name: str) -> Any:
    assert config.wandb is not None
    try:
        import wandb
    except ImportError:
        raise UserError(
            "train.wandb is set and the package wandb is not installed; "
            "pip install 'megatron_math[wandb]' or remove the section"
        ) from None
    return wandb.init(
        project=config.wandb.project,
        name=config.wandb.name or name,
        mode=config.wandb.mode,
        dir=str(folder),
        id=name.replace("/", "-"),
        resume="allow",
        config=config.model_dump(mode="json"),
    )
