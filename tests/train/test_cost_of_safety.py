"""What safety costs, in small: programs of docs/benchmarks/reliability.md, a few rounds each."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

from loaded import loaded
from train_roads import metrics, prepare

from megatron_math.base.road import Road

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "bench" / "reliability"))

from guards_cost import save_model  # noqa: E402


def test_a_save_holds_training_a_tenth_of_cores_own(tmp_path: Path, capfd) -> None:
    script = str(TESTS / "bench" / "reliability" / "save_pause.py")
    command = [sys.executable, script, "--pairs", "3", "--work", str(tmp_path)]
    assert loaded().start(command, stderr=subprocess.DEVNULL).wait(200) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["megabytes"] > 300
    assert told["times_shorter"] >= 10, told


def test_all_guards_cost_less_than_three_hundredths_of_a_step(tmp_path: Path, train) -> None:
    num_steps, warm_steps, sequence_length = 6, 2, 256
    save_model(tmp_path / "hf")
    prepare(
        tmp_path,
        blend={"sequence_length": sequence_length, "tokens": num_steps * 8 * sequence_length},
        train={"micro_batch_size": 4, "validation_samples": 0},
    )
    road = Road.load(tmp_path / "road.yaml", [], tmp_path / "runs")
    assert train(road)
    rows = metrics(road)[warm_steps:]
    shares = [row["phases_ms"]["guards"] / row["elapsed_ms"] for row in rows]
    assert len(shares) >= num_steps - warm_steps
    assert 0 < statistics.median(shares) < 0.03, shares


def test_flips_within_a_step_are_found_by_a_second_computation(tmp_path: Path) -> None:
    """Without one they are not: test_without_a_second_computation_it_goes_into_the_weights."""
    script, told = str(TESTS / "soak" / "bit_flips.py"), tmp_path / "told.json"
    command = [sys.executable, script, "--at-rest", "200", "--inside", "40", "--replay"]
    process = loaded().start([*command, "--json", str(told)], stdout=subprocess.DEVNULL)
    assert process.wait(100) == 0
    found = json.loads(told.read_text())
    assert (found["missed_at_rest"], found["at_rest"]) == (0, 200)
    counts: Counter[str] = Counter()
    for of_one_bit in found["inside"].values():
        counts.update(of_one_bit)
    assert counts["once"] >= 20, counts  # a difference that a further computation does not show
    assert set(counts) <= {"once", "values", "no effect"}, counts  # values: NaN or infinity
