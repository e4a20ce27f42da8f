"""PlanReader: sample i is sample i, for every batch, rank, run length and restart."""

import shutil

import numpy as np
import pytest
from written_indexes import counting_documents, ragged_lengths, write_index

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader

NUM_DOCUMENTS = {"web": 120, "math": 40, "problems": 150}
ROAD = """
name: {name}
blend:
  sequence_length: 32
  validation: 0.1
  stages:
    - name: cpt
      tokens: {tokens}
      mix:
        general: {{share: 4, of: {{web: {{share: 1, path: web}}}}}}
        math:
          share: 6
          of:
            math: {{share: 3, path: math, align: 4}}
            problems: {{share: 7, path: problems, pack: whole, max_epochs: 3}}
    - name: anneal
      sequence_length: 64
      mix: {{problems: {{epochs: 1, path: problems}}, math: {{epochs: 0.5, path: math}}}}
"""


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    for name, count in NUM_DOCUMENTS.items():
        write_index(folder / name, counting_documents(ragged_lengths(count, seed=count)))
    return folder


@pytest.fixture
def plan_of(indexes, tmp_path, monkeypatch):
    monkeypatch.chdir(indexes)

    def make(tokens=30_000, name="r", text=ROAD):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.format(name=name, tokens=tokens))
        return load_plan(run(Road.load(path, runs=tmp_path / "runs")).folder)

    return make


def fields(batch):
    return [getattr(batch, name) for name in batch.__dataclass_fields__]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(fields(a), fields(b), strict=True))


def test_batches_do_not_depend_on_size_ranks_or_history(plan_of):
    plan = plan_of()
    reader = PlanReader(plan, "cpt")
    whole = reader.batch(range(reader.num_samples))
    assert whole.tokens_BS.shape == (reader.num_samples, 32)
    for ranks, micro in ((1, 1), (2, 3), (8, 2)):
        rows = {}
        for rank in range(ranks):
            own = PlanReader(plan, 0)  # a fresh one, as on another machine
            numbers = range(rank, reader.num_samples, ranks)
            for group in chunks(numbers, micro):
                part = own.batch(group)
                rows |= {n: [f[k] for f in fields(part)] for k, n in enumerate(group)}
        together = [np.stack([rows[n][k] for n in sorted(rows)]) for k in range(6)]
        assert all(np.array_equal(x, y) for x, y in zip(together, fields(whole), strict=True))
    backwards = PlanReader(plan, "cpt")
    order = list(range(reader.num_samples))[::-1]
    assert np.array_equal(backwards.batch(order).tokens_BS[::-1], whole.tokens_BS)


def chunks(numbers, size):
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def test_counting_in_blocks_moves_no_sample(plan_of, monkeypatch):
    one_block = PlanReader(plan_of())
    monkeypatch.setattr("megatron_math.blend.build.BLOCK_SAMPLES", 16)
    plan = plan_of(name="blocks")
    many_blocks = PlanReader(plan)
    assert len(plan.counts(0)) > 20
    numbers = range(one_block.num_samples)
    assert [many_blocks.locate(n) for n in numbers] == [one_block.locate(n) for n in numbers]


def test_a_longer_run_has_the_same_first_samples(plan_of):
    short = PlanReader(plan_of(11_000, "short"))
    double = PlanReader(plan_of(22_000, "double"))
    assert double.num_samples > 1.9 * short.num_samples
    numbers = range(short.num_samples)
    assert same(short.batch(numbers), double.batch(numbers))


def test_another_seed_is_another_order(plan_of):
    first = PlanReader(plan_of(9_000, "a"))
    other = PlanReader(plan_of(9_000, "b", ROAD.replace("blend:\n", "blend:\n  seed: 9\n")))
    assert not np.array_equal(first.batch(range(50)).tokens_BS, other.batch(range(50)).tokens_BS)


def test_held_out_documents_are_never_trained_on(plan_of, indexes):
    plan = plan_of(60_000)
    trained = {name: set() for name in NUM_DOCUMENTS}
    for stage in plan.stages:
        reader = PlanReader(plan, stage.name)
        batch = reader.batch(range(reader.num_samples))
        for number, name in enumerate(reader.sources):
            rows = batch.source_B == number
            counted = batch.loss_mask_BS[rows] == 1
            trained[name] |= set(batch.tokens_BS[rows][counted].tolist())
            trained[name] |= set(batch.labels_BS[rows][counted].tolist())
    reader = PlanReader(plan, "cpt")
    for name, count in NUM_DOCUMENTS.items():
        held_out = reader.validation(name)
        assert held_out.num_documents == round(0.1 * count)
        batch = held_out.batch(range(held_out.num_samples))
        counted = batch.loss_mask_BS == 1
        seen = set(batch.tokens_BS[counted].tolist()) | set(batch.labels_BS[counted].tolist())
        assert len(seen) == held_out.num_tokens
        assert not seen & trained[name]
        assert len(seen | trained[name]) == plan.index(name).num_tokens


def test_one_corpus_under_two_names_is_split_once(plan_of):
    text = """
name: {name}
blend: {{sequence_length: 32, tokens: {tokens}, mix: {{a: {{share: 1, path: web}},
         b: {{share: 1, path: web}}}}}}
"""
    reader = PlanReader(plan_of(20_000, text=text))
    assert sorted(reader.validation("a").documents()) == sorted(reader.validation("b").documents())
    batch = reader.batch(range(40))
    of_a, of_b = (batch.tokens_BS[batch.source_B == number] for number in (0, 1))
    assert not np.array_equal(of_a[:10], of_b[:10])


def test_the_cursor_counts_what_was_served(plan_of, monkeypatch):
    monkeypatch.setattr("megatron_math.blend.build.BLOCK_SAMPLES", 16)
    plan = plan_of()
    reader = PlanReader(plan, "cpt")
    batch = reader.batch(range(reader.num_samples))
    for consumed in (0, 1, 17, 400, reader.num_samples):
        cursor = reader.cursor(consumed)
        assert cursor["consumed_samples"] == consumed
        for number, name in enumerate(reader.sources):
            rows = batch.source_B[:consumed] == number
            entry = cursor["sources"][name]
            assert entry["samples"] == rows.sum()
            planned = plan.content.indexes[name]
            assert entry["epoch"] == entry["tokens"] // planned.training_tokens
    described = plan.stages[0]
    assert cursor["consumed_tokens"] == described.tokens
    assert [cursor["sources"][s.name]["tokens"] for s in described.sources] == [
        s.tokens for s in described.sources
    ]


def test_the_next_stage_begins_where_this_one_ended(plan_of):
    """`problems` ended its third epoch, `math` is in mid-epoch: no document comes too early."""
    plan = plan_of(60_000)
    cpt, anneal = PlanReader(plan, "cpt"), PlanReader(plan, "anneal")
    begun = {}
    for reader in (cpt, anneal):
        batch = reader.batch(range(reader.num_samples))
        rows = batch.source_B == reader.sources.index("math")
        firsts = batch.tokens_BS[rows][batch.loss_mask_BS[rows] == 1]
        index = plan.index("math")
        starts = set((np.cumsum(index.lengths_D) - index.lengths_D).tolist())
        for token in firsts.tolist():
            if token in starts:
                begun[token] = begun.get(token, 0) + 1
    assert max(begun.values()) - min(begun.values()) <= 1
    assert anneal.cursor(0)["sources"]["problems"]["epochs_done"] == 3.0
    assert anneal.cursor(anneal.num_samples)["sources"]["problems"]["epochs_done"] == 4.0


def test_a_rewritten_corpus_is_refused(plan_of, indexes, tmp_path):
    plan = plan_of()
    content = read_json(plan.folder / "plan.json")
    shutil.copytree(indexes, tmp_path / "copy")
    for name, entry in content["indexes"].items():
        entry["prefix"] = str(tmp_path / "copy" / name)
    write_json(plan.folder / "plan.json", content)
    load_plan(plan.folder)  # the same bytes elsewhere are the same corpus
    write_index(tmp_path / "copy" / "math", counting_documents([7] * 40))
    with pytest.raises(UserError, match="'math' has changed since the plan"):
        load_plan(plan.folder)


def test_a_missing_foreign_or_cut_plan_is_refused(plan_of, tmp_path):
    with pytest.raises(UserError, match=r"no blend plan at .*run blend first"):
        load_plan(tmp_path)
    plan = plan_of()
    with pytest.raises(UserError, match="no stage 'sft'; its stages are cpt, anneal"):
        PlanReader(plan, "sft")
    np.save(plan.folder / "order_cpt.npy", np.zeros(3, dtype=np.uint16))
    with pytest.raises(UserError, match="run blend again"):
        PlanReader(plan, "cpt")
    content = read_json(plan.folder / "plan.json")
    write_json(plan.folder / "plan.json", content | {"version": 99})
    with pytest.raises(UserError, match="99"):
        load_plan(plan.folder)


def test_asking_outside_the_plan_is_refused(plan_of):
    reader = PlanReader(plan_of())
    with pytest.raises(IndexError, match="which has"):
        reader.batch([reader.num_samples])
    with pytest.raises(UserError, match="no source 'wiki'; it has web, math, problems"):
        reader.validation("wiki")
    with pytest.raises(IndexError):
        reader.validation("web").batch([10**6])


def test_an_index_of_core_trains_through_a_plan(tmp_path):
    """No sidecar: digests are computed, the tokenizer is unknown."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "core.bin"), dtype=np.uint16)
    for document in counting_documents(ragged_lengths(50)):
        builder.add_document(list(document), [len(document)])
    builder.finalize(str(tmp_path / "core.idx"))
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: r\nblend: {{sequence_length: 16, validation: 0, mix: {{core: {{epochs: 1, "
        f"path: {tmp_path}/core}}}}}}\n"
    )
    plan = load_plan(run(Road.load(path, runs=tmp_path / "runs")).folder)
    assert plan.tokenizer is None
    reader = PlanReader(plan)
    batch = reader.batch(range(reader.num_samples))
    served = batch.tokens_BS[:, :].ravel()[: plan.index("core").num_tokens]
    assert sorted(served.tolist()) == list(range(plan.index("core").num_tokens))
    assert reader.validation("core").num_samples == 0
