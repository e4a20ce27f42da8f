"""The first 100,000 sample ids: equal for a run of any length, any number of replicas, any batch.

And opening a plan of 100 M documents costs next to nothing.
"""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from planned_streams import plan_stream
from written_indexes import TOKENIZER, ragged_lengths, write_index

from megatron_math.base.files import write_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.dataset.split import Split, TrainingOrder
from megatron_math.dataset.stream import StreamSettings
from megatron_math.inspect.order import OrderHash, sample_ids

NUM_SAMPLES = 100_000
ROAD = """
name: {name}
blend:
  sequence_length: 16
  tokens: {tokens}
  mix:
    web: {{share: 6, path: web, align: 4}}
    math: {{share: 3, path: math}}
    problems: {{share: 1, path: problems, pack: whole}}
"""


def hash_of(ids):
    digest = OrderHash()
    for sample in ids:
        digest.add(sample)
    return digest.hex()


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Plans of N and 2 N steps; the sources are read between one and forty times over."""
    folder = tmp_path_factory.mktemp("plans")
    for name, count in (("web", 40_000), ("math", 6_000), ("problems", 300)):
        lengths = ragged_lengths(count, seed=count)
        documents = [[5] * length for length in lengths]
        write_index(folder / name, documents)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, tokens in (("n", 1_700_000), ("2n", 3_400_000)):
            (folder / f"{name}.yaml").write_text(ROAD.format(name=name, tokens=tokens))
            road = Road.load(folder / f"{name}.yaml", runs=folder / "runs")
            made.append(load_plan(run(road).folder))
    return made


@pytest.fixture(scope="module")
def first_ids(plans):
    readers = [PlanReader(plan) for plan in plans]
    assert min(reader.num_samples for reader in readers) >= NUM_SAMPLES
    assert readers[1].num_samples > 1.9 * readers[0].num_samples
    return [list(sample_ids(reader, range(NUM_SAMPLES))) for reader in readers]


def test_a_run_twice_as_long_begins_with_the_same_samples(first_ids):
    assert hash_of(first_ids[0]) == hash_of(first_ids[1])
    assert hash_of(first_ids[0]) != hash_of(first_ids[0][1:])  # a hash that could not fail is none


@pytest.mark.parametrize("replicas", [1, 2, 8])
@pytest.mark.parametrize("stopped_after", [0, 31])
def test_replicas_and_restarts_read_the_same_samples(
    plans, first_ids, monkeypatch, replicas, stopped_after
):
    """What train's feed asks for, step by step and replica by replica, put in order again.

    stopped_after: a killed run's new process goes on at that step, on its own fresh readers.
    """
    import torch

    from megatron_math.train.config import TrainConfig
    from megatron_math.train.feed import Feed

    global_batch, micro_batch = 2_000, 125
    asked = []
    small = PlanReader(plans[0]).batch(range(micro_batch))
    monkeypatch.setattr(
        PlanReader, "batch", lambda self, samples: asked.append(samples.tolist()) or small
    )
    steps = NUM_SAMPLES // global_batch
    together = {}
    for rank in range(replicas):
        for first, end in ((0, stopped_after), (stopped_after, steps)):
            feed = Feed(
                plans[0],
                TrainConfig(global_batch_size=global_batch, micro_batch_size=micro_batch, lr=1e-3),
                data_rank=rank,
                data_size=replicas,
                torch_device=torch.device("cpu"),
            )
            for step in range(first, end):
                asked.clear()
                feed.microbatches(step)
                for number, samples in enumerate(asked):
                    together[step, number, rank] = samples
    order = [sample for place in sorted(together) for sample in together[place]]
    assert hash_of(first_ids[0][sample] for sample in order) == hash_of(first_ids[0])


@pytest.mark.parametrize(
    ("length", "times", "most"), [(4096, 1, 0.01), (4096, 30, 0.005), (512, 30, 0.04)]
)
def test_padding_of_whole_packed_gsm8k(shared_data, length, times, most):
    """Lengths of the real GSM8K at 3.6 characters a token, in one segment and in many."""
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    lengths = [round(sum(map(len, row.values())) / 3.6) for row in rows] * times
    assert len(lengths) == 7_473 * times
    planned = plan_stream(StreamSettings(length, "whole"), lengths, end_epoch=1)
    packs = np.concatenate([sizes for sizes, _ in planned.sizes()])
    assert packs.sum() == sum(lengths)
    assert planned.num_rows == -(-len(lengths) // planned.segment_documents)
    assert 0 < 1 - sum(lengths) / (len(packs) * length) < most


OPEN = """
import json, sys, time
from pathlib import Path
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

before, begun = resident("VmRSS"), time.perf_counter()
batch = PlanReader(load_plan(sys.argv[1])).batch(range(8))
seconds = time.perf_counter() - begun
print(json.dumps({"seconds": seconds, "grown": resident("VmHWM") - before,
                  "tokens": batch.tokens_BS[:, 0].tolist()}))
"""


def test_opening_100_million_documents(tmp_path, monkeypatch):
    """Sparse files: only the first 4,096 documents of the order hold tokens (60 each)."""
    num_documents, chosen, length = 100_000_000, 4096, 60
    digest = {"bytes": 2 * chosen * length, "blake3": "b" * 64}
    split = Split.draw(num_documents, seed=1234, share=1e-6, bin_digest=digest["blake3"])
    order = TrainingOrder(NoLengths(), split, seed=1234, name="big")
    documents = np.sort(order.read(0, 0, chosen)[0])
    with open(tmp_path / "big.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, num_documents, num_documents + 1))
        file.truncate(34 + 12 * num_documents + 8 * (num_documents + 1))
    lengths = np.memmap(tmp_path / "big.idx", np.int32, "r+", 34, (num_documents,))
    lengths[documents] = length
    pointers = np.memmap(
        tmp_path / "big.idx", np.int64, "r+", 34 + 4 * num_documents, (num_documents,)
    )
    pointers[documents] = 2 * length * np.arange(chosen)
    pointers[-1] = 2 * length * chosen - 2 * length * int(documents[-1] == num_documents - 1)
    del lengths, pointers
    np.arange(chosen * length, dtype=np.uint16).tofile(tmp_path / "big.bin")
    sidecar = {"documents": num_documents, "tokens": chosen * length, "tokenizer": TOKENIZER}
    idx = {"bytes": (tmp_path / "big.idx").stat().st_size, "blake3": "1" * 64}
    write_json(tmp_path / "big.json", sidecar | {"bin": digest, "idx": idx})
    # The pointers of empty documents are holes; the full check is not what is looked at here.
    monkeypatch.setattr(
        "megatron_math.dataset.documents.IndexedDocuments.check_pointers", lambda self: 0
    )
    (tmp_path / "r.yaml").write_text(
        f"name: r\nblend: {{sequence_length: 4096, tokens: 200k, validation: 1.0e-6, mix: {{big: "
        f"{{share: 1, path: {tmp_path}/big}}}}}}\n"
    )
    folder = run(Road.load(tmp_path / "r.yaml", runs=tmp_path / "runs")).folder
    command = [sys.executable, "-c", OPEN, str(folder)]
    for _ in range(3):  # the first one reads a cold file; others may be working beside
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        said = json.loads(told.stdout)
        assert said["grown"] < 64 << 20
        if said["seconds"] < 0.05:
            break
    assert said["seconds"] < 0.05
    reader = PlanReader(load_plan(folder))
    assert said["tokens"] == reader.batch(range(8)).tokens_BS[:, 0].tolist()


class NoLengths:
    """Lengths nobody needs: only the documents are asked for."""

    array = np.zeros(0, dtype=np.int32)

    def is_mapped_for(self, num_places):
        return False

    def take(self, places):
        return np.zeros_like(places)
