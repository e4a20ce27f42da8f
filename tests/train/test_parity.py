"""One HF checkpoint, one plan, every layout: the same losses and gradient norms (fp32, 1e-5).

Two controls drop one all-reduce on purpose and must be caught by the very same comparison.
"""

import os
import sys
from pathlib import Path

import pytest
from train_roads import metrics

from megatron_math.base.road import Road
from megatron_math.device.start import start_processes
from megatron_math.train.run import run

TOLERANCE = 1e-5
LAYOUTS = {
    "tensor 2": ["parallel.tensor=2"],
    "tensor 2, sequence parallel": ["parallel.tensor=2", "parallel.sequence=true"],
    "pipeline 2": ["parallel.pipeline=2"],
    "data 2": ["parallel.data=2"],
    "tensor 2 x pipeline 2": ["parallel.tensor=2", "parallel.pipeline=2"],
}


def largest_difference(one: Road, other: Road) -> float:
    """Largest relative difference of loss, per-source loss and gradient norm over all steps."""
    pairs = list(zip(metrics(one), metrics(other), strict=True))
    assert len(pairs) >= 20
    worst = 0.0
    for mine, yours in pairs:
        names = [n for n in mine if n in ("lm loss", "grad-norm") or n.startswith("loss/")]
        assert names == [n for n in yours if n in names]
        worst = max(worst, *(abs(mine[n] - yours[n]) / abs(mine[n]) for n in names))
    print(f"largest relative difference: {worst:.2e}")
    return worst


@pytest.fixture(scope="module")
def one_process(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Road:
    import shutil

    runs = tmp_path_factory.mktemp("one_process")
    shutil.copytree(prepared / "runs", runs, symlinks=True, dirs_exist_ok=True)
    road = Road.load(prepared / "road.yaml", runs=runs)
    run(road)
    return road


def test_the_reference_learns(one_process: Road) -> None:
    rows = metrics(one_process)
    assert rows[-1]["lm loss"] < 0.99 * rows[0]["lm loss"]
    validation = metrics(one_process, "validation.jsonl")
    for source in ("general", "problems"):
        assert validation[-1]["loss"][source] < validation[0]["loss"][source]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_the_same(layout: str, one_process: Road, copy_of) -> None:
    road = copy_of("layout", *LAYOUTS[layout])
    run(road)
    assert largest_difference(one_process, road) < TOLERANCE
    for mine, yours in zip(
        metrics(one_process, "validation.jsonl"), metrics(road, "validation.jsonl"), strict=True
    ):
        assert mine["tokens"] == yours["tokens"]
        assert mine["loss"] == pytest.approx(yours["loss"], rel=TOLERANCE)


DROPPED = {
    "data": (
        "parallel.data=2",
        "import megatron.core.distributed.param_and_grad_buffer as core\n"
        "core._ParamAndGradBucketGroup.start_grad_sync = lambda self: None\n"
        "core._ParamAndGradBucketGroup.finish_grad_sync = lambda self, *a, **k: None\n",
    ),
    "tensor": (
        "parallel.tensor=2",
        "import megatron.core.tensor_parallel.mappings as core\n"
        "core._reduce = lambda partial_sum, group: partial_sum\n",
    ),
}


@pytest.mark.parametrize("group", DROPPED)
def test_a_dropped_all_reduce_is_caught(
    group: str, one_process: Road, copy_of, tmp_path: Path
) -> None:
    override, patch = DROPPED[group]
    road = copy_of("dropped", override)
    script = tmp_path / "dropped.py"
    script.write_text(
        "from megatron_math.device.on_cpu import patch_cpu\npatch_cpu()\n"
        + patch
        + "import os\nfrom megatron_math.train.__main__ import main\n"
        "if __name__ == '__main__':\n    os._exit(main())\n"
    )
    command = [sys.executable, str(script), str(road.yaml_path), "--runs", str(road.runs)]
    environment = dict(os.environ)
    assert start_processes([*command, *road.overrides], 2, env=environment) == 0
    assert largest_difference(one_process, road) > 100 * TOLERANCE
