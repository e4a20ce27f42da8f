"""Guards on two processes: both judge alike, and the rank that is at fault is named."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from loaded import loaded
from test_guards import BASE, end_of, losses

SEVERAL = """
import json
import torch
from pathlib import Path
from megatron_math.train.guards import Guards
from megatron_math.train.watch import Watch
from megatron_math.device.optimizer_state import weights_of
real, left = Guards.measured, [1]
def measured(self, *found):  # with overlap, what was not fetched yet is made good by the fetching
    if self._step == 6 and self._device.rank == {rank} and left[0]:
        left[0] = 0
        if {what!r} == "weight":
            weight = next(iter(self._models[0].module.parameters()))
            weight.data.view(-1).view(torch.uint8)[5] ^= 1
        else:
            tensor = next(t.tensor for t in self._tensors if t.name.startswith({what!r}))
            tensor.view(-1).view(torch.uint8)[5] ^= 1
    return real(self, *found)
def tell(self, event, message):
    with open({told!r}, "a") as file:
        file.write(json.dumps([event, message]) + "\\n")
patch(Guards, "measured", measured)
patch(Watch, "tell", tell)
"""
LAYOUTS = {
    "replicas": ("weight", "parallel.data=2", "parallel.overlap=false"),
    "replicas, overlap": ("weight", "parallel.data=2"),
    "tensor": ("exp_avg of", "parallel.tensor=2", "train.micro_batch_size=8"),
    "pipeline": ("weight", "parallel.pipeline=2"),
}


@pytest.mark.timeout(400)
def test_two_processes_judge_alike(copy_of, tmp_path) -> None:
    """The rank is named, both go back together, and the end is that of the run without faults."""
    cases, jobs = [], []
    for layout, (planted, *overrides) in LAYOUTS.items():
        for what in (None, planted):
            road = copy_of(f"{layout} {what}", *BASE, *overrides, "train.stop_after=8")
            told = tmp_path / f"{layout} {what}.told"
            source = SEVERAL.format(rank=1, what=what or "", told=str(told))
            if what is None:
                source = source.replace("_step == 6", "_step < 0")
            jobs.append([str(road.yaml_path), list(road.overrides), str(road.runs), source])
            cases.append((layout, what, road, told))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("train_several.py")
    assert (
        loaded().start_processes([sys.executable, str(script), str(tmp_path / "jobs.json")], 2) == 0
    )
    ends: dict[str, Any] = {}
    for layout, what, road, path in cases:
        events = (
            [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )
        events = [event for event in events if event[0] not in ("done",)]
        if what is None:
            assert events == []
            ends[layout] = (end_of(road), losses(road))
            continue
        ((event, message),) = events
        assert event == "rolled_back"
        both = layout == "replicas, overlap" and what == "weight"  # two replicas: no majority
        assert f"rank(s) {[0, 1] if both else [1]}" in message, (layout, what)
        assert (end_of(road), losses(road)) == ends[layout], (layout, what)
