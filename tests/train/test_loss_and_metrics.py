"""The masked sum against hand-made numbers; metrics files that are cut back on resume."""

import json
from pathlib import Path

import pytest
import torch

from megatron_math.train.loss import next_token_loss
from megatron_math.train.metrics import cut_behind, log_line


def test_sums_and_counts_by_source() -> None:
    loss_BS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [0.5, 0.25, 0.125]])
    mask_BS = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    source_B = torch.tensor([0, 2, 0])
    total, count, report = next_token_loss(loss_BS, mask_BS, source_B, num_sources=3)
    assert total.item() == 1 + 4 + 8 + 16 + 0.875
    assert count.item() == 7
    assert report.tolist() == [5.875, 0, 24, 5, 0, 2]


def test_masked_positions_have_no_gradient() -> None:
    loss_BS = torch.ones(1, 4, requires_grad=True)
    mask_BS = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    total, _, _ = next_token_loss(loss_BS, mask_BS, torch.tensor([0]), num_sources=1)
    total.backward()
    assert loss_BS.grad is not None
    assert loss_BS.grad.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_cutting_back_keeps_each_iteration_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"iteration": i}) + "\n" for i in range(1, 8)]
    path.write_text("".join(rows) + '{"iteration": 8, "lm lo')
    cut_behind(path, 5)
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip
    cut_behind(tmp_path / "none.jsonl", 5)
    assert not (tmp_path / "none.jsonl").exists()


def test_the_log_line_is_megatron_lms() -> None:
    row = {
        "iteration": 20, "consumed_samples": 320, "elapsed_ms": 366.6, "tflops": 1.25,
        "learning-rate": 2.830368e-3, "lm loss": 6.047939, "grad-norm": 0.45,
        "tokens_per_second": 11174.0, "consumed_tokens": 81286, "data_wait_ms": 0.04,
        "tokens_per_second_per_process": 5587.0, "tflops_full": 1.5, "peak_reserved_bytes": 3 << 29,
        "mfu": 0.412, "mfu_peak": "fp8", "phases_ms": {"data": 0.25, "other": 366.35},
    }  # fmt: skip
    line = log_line(row, 98, 16).split("] ", 1)[1]
    assert line.startswith(
        "iteration       20/      98 | consumed samples:          320 | "
        "elapsed time per iteration (ms): 366.6 | throughput per GPU (TFLOP/s/GPU): 1.2 | "
        "learning rate: 2.830368E-03 | global batch size:    16 | lm loss: 6.047939E+00 | "
        "loss scale: 1.0 | grad norm: 0.450 | number of skipped iterations:   0 | "
        "number of nan iterations:   0 |"
    )
    assert (
        "| per process: 5587 | with full attention (TFLOP/s/GPU): 1.5 | MFU (fp8 peak): 41.2% | "
        "reserved at most (GiB): 1.50 | phases (ms): data 0.2, other 366.4 |"
    ) in line
    assert line.endswith("| time left (s): 29 | data wait (ms): 0.0 |")


def test_an_untrained_model_loses_log_vocabulary() -> None:
    """Two ways to the same number: cross entropy of uniform logits is log V."""
    vocabulary = 500
    loss_BS = torch.nn.functional.cross_entropy(
        torch.zeros(4, vocabulary), torch.arange(4), reduction="none"
    ).view(1, 4)
    total, count, _ = next_token_loss(loss_BS, torch.ones(1, 4), torch.tensor([0]), num_sources=1)
    assert total.item() / count.item() == pytest.approx(6.214608, rel=1e-6)
