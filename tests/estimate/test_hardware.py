"""Every GPU is complete, dense and sourced; one of the user's own is a file."""

from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.estimate.hardware import GPUS, load_gpu, load_shares

NUMBERS = ("memory_bytes", "memory_bytes_per_second", "peak_flops", "node_bytes_per_second",
           "network_bytes_per_second", "watts")  # fmt: skip


@pytest.mark.parametrize("name", GPUS)
def test_every_number_has_a_source_and_every_peak_a_share(name: str) -> None:
    gpu = load_gpu(name)
    assert set(NUMBERS) <= set(gpu.sources)
    assert (gpu.clock_share == 1) != ("clock_share" in gpu.sources)
    assert set(gpu.peak_flops) == set(gpu.reached.matmul)
    for precision, share in gpu.reached.matmul.items():
        assert 0 < share < 1, precision


def test_peaks_are_dense() -> None:
    assert load_gpu("h100").peak_flops["bf16"] == load_gpu("h200").peak_flops["bf16"] == 989e12
    assert load_gpu("h100").peak_flops["fp8"] == 1979e12
    for name in GPUS:
        peaks = load_gpu(name).peak_flops
        assert "fp8" not in peaks or peaks["fp8"] == pytest.approx(2 * peaks["bf16"], rel=1e-3)


def test_the_gpus_that_are_promised() -> None:
    assert {"h100", "h200", "b200", "a100", "mi300x"} <= set(GPUS)
    assert {load_gpu(name).architecture for name in GPUS} == set(load_shares())


def test_a_gpu_of_ones_own(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "megatron_math/device/gpus/h100.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("watts: 700", "watts: 350"))
    assert load_gpu(str(own)).watts == 350
    own.write_text(text.replace("architecture: hopper", "architecture: mine"))
    with pytest.raises(UserError, match="no shares are known for architecture 'mine'"):
        _ = load_gpu(str(own)).reached
    own.write_text(text.replace("watts: 700", "wats: 700"))
    with pytest.raises(UserError, match="did you mean 'watts'"):
        load_gpu(str(own))
    own.write_text(text.replace("bf16: 989.0e12, ", ""))
    with pytest.raises(UserError, match="peak_flops needs bf16"):
        load_gpu(str(own))
    with pytest.raises(UserError, match="no GPU 'h1000': give one of a100, b200"):
        load_gpu("h1000")
