"""A blend that continues a checkpoint: nothing is dropped, nothing repeated, come what may."""

import io
import re
from collections import Counter

import numpy as np
import pytest
from rich.console import Console
from written_indexes import EOD, counting_documents, ragged_lengths, write_index

from megatron_math.base.errors import UserError
from megatron_math.base.files import read_json, write_json
from megatron_math.base.road import Road
from megatron_math.blend.run import dry_run, run
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.inspect.plan import inspect_plan, render_plan

NUM_DOCUMENTS = {"web": 90, "code": 50, "problems": 120}
FIRST = """
sequence_length: 32
stages:
  - name: cpt
    tokens: 6k
    mix:
      web: {share: 5, path: web}
      code: {share: 2, path: code, align: 4}
      problems: {share: 3, path: problems, pack: whole}
  - name: anneal
    mix: {problems: {epochs: 1.5, path: problems}, web: {epochs: 0.25, path: web}}
"""
# Every source ends: the budget is what is left until then.
CHANGES = {
    "other shares": """
sequence_length: 32
tokens: 10M
mix:
  web: {share: 1, path: web, max_epochs: 3}
  code: {share: 5, path: code, align: 4, max_epochs: 4}
  problems: {share: 4, path: problems, pack: whole, max_epochs: 4}
""",
    "another length and packing": """
sequence_length: 64
tokens: 10M
mix:
  web: {share: 2, path: web, pack: whole, align: 8, max_epochs: 3}
  code: {share: 2, path: code, max_epochs: 4}
  problems: {share: 3, path: problems, align: 2, max_epochs: 4}
""",
    "sources come and go": """
sequence_length: 48
tokens: 10M
mix:
  new: {share: 1, path: new, max_epochs: 2}
  problems: {share: 3, path: problems, pack: whole, max_epochs: 4}
""",
}


@pytest.fixture
def road_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, count in (NUM_DOCUMENTS | {"new": 60}).items():
        write_index(tmp_path / name, counting_documents(ragged_lengths(count, seed=count)))

    def make(blend, name="a", **more):
        lines = [*blend.strip().splitlines(), *(f"{key}: {value}" for key, value in more.items())]
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nblend:\n" + "".join(f"  {line}\n" for line in lines)
        )
        return Road.load(tmp_path / f"{name}.yaml")

    return make


@pytest.fixture
def plan_all(road_of):
    """A blend whose sources all end by max_epochs, planned until the last one has ended."""

    def make(blend, name="b", **more):
        with pytest.raises(UserError, match="have ended by max_epochs after") as refusal:
            dry_run(road_of(blend, name, **more))
        tokens = re.search(r"after (\d+)", str(refusal.value)).group(1)
        return run(road_of(blend.replace("10M", tokens), name, **more))

    return make


def save_checkpoint(plan, consumed, folder):
    """What train's feed writes after so many samples of the plan, as far as the data go."""
    history = plan.history
    stages = list(history.stages) if history else []
    left = consumed
    for stage in plan.stages:
        taken = min(left, stage.num_samples)
        stages.append(PlanReader(plan, stage.name).cursor(taken))
        left -= taken
    before = history.consumed_samples if history else 0
    state = {"iteration": consumed, "consumed_samples": before + consumed, "stages": stages}
    write_json(folder / "data_state.json", {"version": 1, **state})
    return folder


def ledger(plan, consumed=None):
    """(source, token) -> times it was an input of the plan's first samples (all of them)."""
    used = Counter()
    for stage in plan.stages:
        reader = PlanReader(plan, stage.name)
        taken = stage.num_samples if consumed is None else min(consumed, stage.num_samples)
        consumed = consumed if consumed is None else consumed - taken
        batch = reader.batch(range(taken))
        for row, source in zip(batch.tokens_BS, batch.source_B, strict=True):
            used.update((reader.sources[source], token) for token in row[row != EOD].tolist())
    return used


def training_tokens(plan, name):
    index = plan.index(name)
    held_out = set(PlanReader(plan, next(
        stage.name for stage in plan.stages if any(s.name == name for s in stage.sources)
    )).validation(name).documents().tolist())  # fmt: skip
    return [
        (name, int(token))
        for document in range(len(index))
        if document not in held_out
        for token in index.document(document)
    ]


def shown(facts):
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(render_plan(facts))
    return console.export_text()


def spread(used, tokens):
    counts = [used[token] for token in tokens]
    return max(counts) - min(counts)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("consumed", [0, 1, 77, "cpt", "cpt + 9", "all"])
def test_every_token_exactly_once_an_epoch_over_both_blends(
    road_of, plan_all, tmp_path, change, consumed
):
    before = load_plan(run(road_of(FIRST)).folder)
    cpt = before.stages[0].num_samples
    total = sum(stage.num_samples for stage in before.stages)
    consumed = {"cpt": cpt, "cpt + 9": cpt + 9, "all": total}.get(consumed, consumed)
    checkpoint = save_checkpoint(before, consumed, tmp_path / "iter_7")
    after = load_plan(plan_all(CHANGES[change], continue_from=checkpoint).folder)
    assert after.history.consumed_samples == consumed
    used = ledger(before, consumed)
    tokens = {name: training_tokens(after, name) for name in after.content.indexes}
    (stage,) = after.stages
    for samples in range(0, stage.num_samples, max(1, stage.num_samples // 7)):
        together = used + ledger(after, samples)
        assert all(spread(together, tokens[name]) <= 1 for name in tokens)
    together = used + ledger(after)
    for source in stage.sources:
        assert {together[token] for token in tokens[source.name]} == {source.end_epoch}
    of_others = set(together) - {token for name in tokens for token in tokens[name]}
    assert {name for name, _ in of_others} <= set(NUM_DOCUMENTS) - set(tokens)


def test_forgetting_the_rest_of_a_segment_would_be_seen(road_of, tmp_path):
    """Negative control: the cursor without what its segments have left over."""
    before = load_plan(run(road_of(FIRST)).folder)
    checkpoint = save_checkpoint(before, 77, tmp_path / "iter_7")
    state = read_json(checkpoint / "data_state.json")
    for entry in state["stages"][0]["sources"].values():
        entry["standing"]["mark"]["inside"] = None
    write_json(checkpoint / "data_state.json", state)
    with pytest.raises(UserError, match="tokens left in epoch 0, by the .* must be .* damaged"):
        dry_run(road_of(CHANGES["other shares"], "b", continue_from=checkpoint))


def test_a_source_left_out_for_a_while_goes_on_where_it_was(road_of, plan_all, tmp_path):
    a = load_plan(run(road_of(FIRST)).folder)
    consumed = a.stages[0].num_samples + 3
    first = save_checkpoint(a, consumed, tmp_path / "iter_1")
    b = load_plan(plan_all(CHANGES["sources come and go"], continue_from=first).folder)
    assert set(b.history.sources) == {"web", "code", "problems"}
    told = inspect_plan(b.folder)["continues"]
    assert told["left_out"] == ["web", "code"]
    assert told["consumed_samples"] == consumed
    assert f"continues {first} after {consumed:,} samples" in shown(inspect_plan(b.folder))
    second = save_checkpoint(b, 40, tmp_path / "iter_2")
    blend = """
sequence_length: 16
tokens: 10M
mix: {code: {share: 1, path: code, max_epochs: 3}, web: {share: 2, path: web, max_epochs: 3}}
"""
    c = load_plan(plan_all(blend, "c", continue_from=second).folder)
    assert set(c.history.sources) == {"web", "code", "problems", "new"}
    assert c.history.consumed_samples == consumed + 40
    assert [cursor["stage"] for cursor in c.history.stages] == ["cpt", "anneal", "train"]
    used = ledger(a, consumed) + ledger(b, 40) + ledger(c)
    for name in ("web", "code"):
        assert {used[token] for token in training_tokens(c, name)} == {3}


def test_the_same_blend_goes_on_with_the_same_samples(road_of, tmp_path):
    """Concat only: the cuts fall where they fell, so a stop and a new plan move nothing."""
    blend = "sequence_length: 32\ntokens: {}\nmix: {{web: {{share: 1, path: web}}}}"
    whole = load_plan(run(road_of(blend.format(9_600))).folder)
    checkpoint = save_checkpoint(whole, 100, tmp_path / "iter_7")
    rest = load_plan(run(road_of(blend.format(6_400), "b", continue_from=checkpoint)).folder)
    expected = PlanReader(whole).batch(range(100, 300)).tokens_BS
    assert np.array_equal(PlanReader(rest).batch(range(200)).tokens_BS, expected)


def test_a_plan_of_its_own_road_may_be_changed_twice(road_of, tmp_path):
    """The checkpoint alone says where the data stand: the plan it was made under may be gone."""
    before = load_plan(run(road_of(FIRST)).folder)
    checkpoint = save_checkpoint(before, 77, tmp_path / "iter_7")
    blend = CHANGES["other shares"]
    once = load_plan(run(road_of(blend.replace("10M", "4k"), continue_from=checkpoint)).folder)
    numbers = range(once.stages[0].num_samples)
    expected = PlanReader(once).batch(numbers).tokens_BS
    again = run(road_of(blend.replace("10M", "5k"), continue_from=checkpoint))
    longer = load_plan(again.folder)
    assert longer.history == once.history
    assert longer.stages[0].num_samples > once.stages[0].num_samples
    assert np.array_equal(PlanReader(longer).batch(numbers).tokens_BS, expected)


def test_a_finished_plan_outlives_its_checkpoint(road_of, tmp_path):
    before = load_plan(run(road_of(FIRST)).folder)
    checkpoint = save_checkpoint(before, 77, tmp_path / "iter_7")
    road = road_of(CHANGES["other shares"].replace("10M", "4k"), "b", continue_from=checkpoint)
    run(road)
    (checkpoint / "data_state.json").unlink()
    assert run(road).is_done()
    other = road_of(
        CHANGES["other shares"].replace("10M", "4k"), "b", continue_from=tmp_path / "iter_9"
    )
    with pytest.raises(UserError, match=r"no file .*iter_9/data_state\.json"):
        run(other)


def test_what_cannot_be_continued_is_refused(road_of, tmp_path):
    before = load_plan(run(road_of(FIRST)).folder)
    checkpoint = save_checkpoint(before, 77, tmp_path / "50_train" / "iter_0000007")
    blend = CHANGES["other shares"].replace("10M", "4k")

    def refused(words, continue_from=checkpoint, blend=blend, **more):
        with pytest.raises(UserError, match=words):
            dry_run(road_of(blend, "b", continue_from=continue_from, **more))

    refused("made with seed 1234, here it is 9; .* set blend.seed: 1234", seed=9)
    refused("made with validation 0.05, here it is 0.2", validation=0.2)
    refused("it holds iter_0000007, choose one", continue_from=checkpoint.parent)
    total = sum(stage.num_samples for stage in before.stages)
    refused(
        "max_epochs: 1, and the stages before have used 1 epochs of 'problems'",
        continue_from=save_checkpoint(before, total, tmp_path / "iter_8"),
        blend=blend.replace("whole, max_epochs: 4", "whole, max_epochs: 1"),
    )
    state = read_json(checkpoint / "data_state.json")
    write_json(
        tmp_path / "old" / "data_state.json", {"stages": [state["stages"][0] | {"version": 1}]}
    )
    refused("cursors of format and version", continue_from=tmp_path / "old")
    write_index(tmp_path / "web", counting_documents(ragged_lengths(91)))
    refused("the source 'web' is another corpus than in .* give the new one")


def test_the_same_corpus_under_another_name_is_told(road_of, tmp_path, caplog):
    before = load_plan(run(road_of(FIRST)).folder)
    checkpoint = save_checkpoint(before, 77, tmp_path / "iter_7")
    blend = "sequence_length: 32\ntokens: 1k\nmix: {internet: {share: 1, path: web}}"
    with caplog.at_level("WARNING"):
        dry_run(road_of(blend, "b", continue_from=checkpoint))
    assert "the source 'internet' begins its first epoch" in caplog.text
    assert "call it 'web'" in caplog.text
