"""`inspect order`: equal orders are equal, and the first sample that is not is the one named."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from written_indexes import counting_documents, ragged_lengths, write_index

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.run import run
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.inspect.app import app
from megatron_math.inspect.order import inspect_order

ROAD = """
name: {name}
seed: {seed}
blend:
  sequence_length: 32
  stages:
    - {{name: cpt, tokens: {tokens}, mix: {{web: {{share: 3, path: web}}, math: {{share: {share},
       path: math, pack: whole}}}}}}
    - {{name: anneal, tokens: 2k, mix: {{web: {{share: 1, path: web}}}}}}
"""


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (("web", 900), ("math", 150)):
        write_index(tmp_path / name, counting_documents(ragged_lengths(count, seed=count)))

    def make(name, seed=7, tokens="40k", share=1):
        text = ROAD.format(name=name, seed=seed, tokens=tokens, share=share)
        (tmp_path / f"{name}.yaml").write_text(text)
        stage = run(Road.load(tmp_path / f"{name}.yaml", runs=tmp_path / "runs"))
        return stage.folder.parent

    return make


def test_a_longer_run_has_the_same_order_as_far_as_both_go(folder_of):
    a, b = folder_of("a"), folder_of("b", tokens="80k")
    facts = inspect_order(a, b / "40_blend")
    cpt, _ = facts["stages"]
    assert cpt["first_difference"] is None
    assert cpt["compared"] == cpt["samples"][0] < cpt["samples"][1]
    assert [row["samples"] for row in cpt["hashes"]] == [1_000, cpt["compared"]]
    assert all(row["a"] == row["b"] for row in cpt["hashes"])
    assert cpt["sources"][0] == cpt["sources"][1]
    assert cpt["sources"][0]["web"]["tokens"] > 25_000
    # The longer first stage leaves the second to begin elsewhere: that is seen.
    assert facts["stages"][1]["first_difference"]["sample"] == 0
    assert not facts["equal"]


def test_the_first_difference_is_the_first(folder_of):
    a, b = folder_of("a"), folder_of("b", share=1.001)
    difference = inspect_order(a, b, num_samples=900)["stages"][0]["first_difference"]
    at = difference["sample"]
    assert at > 0
    readers = [PlanReader(load_plan(folder / "40_blend")) for folder in (a, b)]
    located = [[reader.locate(n) for n in range(at + 1)] for reader in readers]
    assert located[0][:at] == located[1][:at]
    assert located[0][at] != located[1][at]
    for side, reader in zip("ab", readers, strict=True):
        source, number = reader.locate(at)
        pieces = reader.stream(source).layout(number)
        assert difference[side]["source"] == reader.sources[source]
        assert difference[side]["pieces"] == [
            {"document": p.document, "first_token": p.start, "tokens": p.tokens} for p in pieces
        ]


def test_one_swapped_pair_of_samples_is_seen(folder_of):
    """A planted fault in a copy of the order: two neighbours of different sources."""
    import numpy as np

    a, b = folder_of("a"), folder_of("b")
    assert inspect_order(a, b)["equal"]
    path = b / "40_blend" / "order_cpt.npy"
    order = np.load(path)
    at = int(np.flatnonzero(order[500:-1] != order[501:])[0]) + 500
    order[[at, at + 1]] = order[[at + 1, at]]
    np.save(path, order)
    facts = inspect_order(a, b)
    assert not facts["equal"]
    assert facts["stages"][0]["first_difference"]["sample"] == at
    hashes = facts["stages"][0]["hashes"]
    assert [row["a"] == row["b"] for row in hashes] == [row["samples"] <= at for row in hashes]


def test_the_command_says_so_by_text_json_and_exit_code(folder_of):
    a, b, other = folder_of("a"), folder_of("b"), folder_of("c", seed=8)
    runner = CliRunner()
    same = runner.invoke(app, ["order", str(a), str(b), "--samples", "1000"])
    assert same.exit_code == 0
    assert "the same order" in same.stdout
    told = runner.invoke(app, ["order", str(a), str(other), "--json"])
    assert told.exit_code == 1
    assert json.loads(told.stdout)["equal"] is False
    told = runner.invoke(app, ["order", str(a), str(other)])
    assert told.exit_code == 1
    assert "first difference: sample 0" in told.stdout
    assert "another order" in told.stdout
    with pytest.raises(UserError, match="neither a run folder with a 40_blend"):
        inspect_order(a, Path("nowhere"))
