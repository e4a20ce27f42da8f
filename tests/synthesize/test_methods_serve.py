"""The real counterpart: every method against `transformers serve` with a model trained here."""

import pytest
import trained_teacher
from method_roads import ENGINES, Written, check_counts, load, write_road
from served import needs_serve, served

from megatron_math.cli import main
from megatron_math.synthesize import run as room
from megatron_math.synthesize.steps import delete_back

pytestmark = [
    pytest.mark.soak,  # training takes a minute or two, the server half a minute to load
    needs_serve,
]
PLAN = {"expansion": 3, "diversification": 3, "retrospective": 3, "tutorship": 6, "rejection": 3}
ACCEPTED = {"expansion": 6, "diversification": 6, "retrospective": 3, "tutorship": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained_teacher.train(tmp_path_factory.mktemp("trained") / "hf")


@pytest.fixture(scope="module")
def server_url(model, tmp_path_factory):
    with served(model, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


@pytest.mark.parametrize("method", ENGINES)
def test_one_command(method, server_url, model, tmp_path):
    seeds, prompts = trained_teacher.write_inputs(tmp_path / "inputs")
    server = {"url": server_url, "model": str(model), "api": "completions", "concurrency": 2}
    engine = {"server": server, "max_new_tokens": 400}
    more = {"rejection": {"samples": 1}, "retrospective": {"steps_needed": 2}}.get(method, {})
    road = write_road(
        tmp_path, method, seeds, None, prompts=str(prompts), **more,
        **dict.fromkeys(ENGINES[method], engine),
    )  # fmt: skip
    command = ["synthesize", str(road), "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    written = Written(load(road).folder(room.STAGE))
    stats = written.stats
    assert sum(cost["calls"] for cost in stats["cost"].values()) == PLAN[method]
    assert stats["accepted"] == ACCEPTED.get(method, 0), written.drops
    if method == "rejection":
        reason = "not accepted: reference, symbolic, none of reference, agreement"
        assert stats["rejects"] == {reason: 3}
    if method == "retrospective":
        rows = [trained_teacher.seed_row(*numbers) for numbers in trained_teacher.NUMBERS]
        solutions = {row["problem"]: row["solution"] for row in rows}
        for record in written.records:
            assert delete_back(record.solution) == solutions[record.problem]
    if method == "tutorship":
        assert {record.meta["step"] for record in written.records} == {2}
    assert room.run(load(road)).was_done
    if len(ENGINES[method]) == 1:  # the same weights in this process say the same
        engine = {"hf": {"folder": str(model)}, "max_new_tokens": 400}
        road = write_road(
            tmp_path, method, seeds, None, name="local", prompts=str(prompts), **more, engine=engine
        )
        local = Written(room.run(load(road)).folder)
        for ours, theirs in zip(local.records, written.records, strict=True):
            assert (ours.problem, ours.solution) == (theirs.problem, theirs.solution)
    check_counts(written, 3, models=dict.fromkeys(ENGINES[method], str(model)), api="completions")
