"""A run that changes its layout three times on the way is the run that never did (fp32, 1e-5)."""

import pytest
from test_parity import TOLERANCE, largest_difference, one_process  # noqa: F401
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.inspect.samples import inspect_samples
from megatron_math.train.run import run

LEGS = [
    (5, ["parallel.tensor=2", "parallel.pipeline=2"]),
    (10, ["parallel.data=4"]),
    (15, ["parallel.tensor=4", "parallel.sequence=true"]),
    (18, ["parallel.context=2", "parallel.recompute=full"]),
    (None, []),
]


def test_every_leg_goes_on_where_the_other_layout_stopped(one_process: Road, copy_of) -> None:  # noqa: F811
    road = copy_of("legs", "train.validation_samples=0")
    for stop_after, overrides in LEGS:
        stop = [] if stop_after is None else [f"train.stop_after={stop_after}"]
        leg = Road.load(road.yaml_path, [*road.overrides, *overrides, *stop], road.runs)
        if stop_after is None:
            run(leg)
        else:
            with pytest.raises(StoppedOnRequest):
                run(leg)
            assert len(metrics(leg)) == stop_after
    assert largest_difference(one_process, road) < TOLERANCE
    told = inspect_samples(road.folder("50_train").parent)  # over 4, 4, 4, 2 and 1 processes
    assert (told["iterations"], told["samples"], told["faults"]) == (22, 170, [])
