"""Streams: epochs are epochs, every token is served once an epoch, whatever cuts and packs."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_streams import Given, plan_stream, read_stream

from megatron_math.blend.tables import PLANNED
from megatron_math.dataset.split import Split, TrainingOrder
from megatron_math.dataset.stream import Mark, StreamSettings

lengths_lists = st.lists(st.integers(0, 40), min_size=1, max_size=14).filter(any)
packs = st.sampled_from(["concat", "whole"])


@st.composite
def settings_of(draw, pack=packs):
    align = draw(st.integers(1, 4))
    return StreamSettings(align * draw(st.integers(1, 8)), draw(pack), align)


@st.composite
def cases(draw, pack=packs, end=True):
    """(planned, lengths): over some documents, in segments of a few, ended after 1 to 3 epochs."""
    lengths = draw(lengths_lists)
    planned = plan_stream(
        draw(settings_of(pack)),
        lengths,
        seed=draw(st.integers(0, 99)),
        end_epoch=draw(st.integers(1, 3)) if end else None,
        segment=draw(st.sampled_from([1, 2, 4, 256])),
    )
    return planned, lengths


def inputs_of(stream, sample):
    """(document, place) of every real input token of a sample, labels beyond S left out."""
    tokens, room = [], stream.settings.sequence_length
    for piece in stream.layout(sample):
        count = min(piece.tokens, room)
        tokens += [(piece.document, piece.start + i) for i in range(count)]
        room -= count + min(piece.padding, room - count)
    return tokens


def check_layouts(stream, samples):
    """A batch is found at once, in C++ where it can be; sample by sample it is the same."""
    found, starts = stream.layouts(samples)
    expected = [stream.pieces(sample) for sample in samples]
    assert found.dtype == starts.dtype == np.int64
    assert found.tolist() == [row for pieces in expected for row in pieces.tolist()]
    assert starts.tolist() == [0, *np.cumsum([len(pieces) for pieces in expected], dtype=int)]


def every_token(lengths, times):
    return Counter({(d, i): times for d, length in enumerate(lengths) for i in range(length)})


@given(cases())
@settings(max_examples=200, deadline=None)
def test_every_token_is_an_input_once_an_epoch_and_sizes_count_them(case):
    planned, lengths = case
    stream, num_samples = read_stream(planned)
    check_layouts(stream, range(num_samples))
    samples = [inputs_of(stream, j) for j in range(num_samples)]
    seen = Counter(token for sample in samples for token in sample)
    assert seen == every_token(lengths, planned.end_epoch)
    chunks = list(planned.sizes())
    assert [last for _, last in chunks] == [False] * (len(chunks) - 1) + [True]
    sizes = np.concatenate([sizes for sizes, _ in chunks])
    assert [len(sample) for sample in samples] == sizes.tolist()
    assert planned.total_tokens == stream.num_tokens == sizes.sum()
    assert num_samples == stream.num_samples
    for j in range(num_samples + 1):
        assert stream.tokens_before(j) == sum(len(sample) for sample in samples[:j])


@given(cases())
@settings(max_examples=200, deadline=None)
def test_an_epoch_is_an_epoch(case):
    """At every sample: no document begins again before all others began as often."""
    planned, lengths = case
    stream, num_samples = read_stream(planned)
    begun = Counter({d: 0 for d, length in enumerate(lengths) if length})
    for j in range(num_samples):
        slot = 0
        for piece in stream.layout(j):
            only_a_label = slot == stream.settings.sequence_length  # it begins in the next sample
            begins = piece.start == 0 and not only_a_label
            begun[piece.document] += begins
            assert piece.epoch == begun[piece.document] - (piece.start > 0 or begins)
            slot += piece.tokens + piece.padding
        assert max(begun.values()) - min(begun.values()) <= 1


def test_drawing_documents_at_random_is_no_epoch():
    """Negative control for the test above: independent draws repeat some before all were seen."""
    draws = np.random.default_rng(0).integers(0, 50, 50)
    counts = np.bincount(draws, minlength=50)
    assert counts.max() - counts.min() > 1


@given(cases(pack=st.just("whole")))
@settings(max_examples=200, deadline=None)
def test_whole_cuts_only_what_cannot_fit(case):
    planned, lengths = case
    stream, num_samples = read_stream(planned)
    length = stream.settings.sequence_length
    for j in range(num_samples):
        for piece in stream.layout(j):
            if lengths[piece.document] <= length:
                assert (piece.start, piece.tokens) == (0, lengths[piece.document])
            else:
                assert piece.start % length == 0


@given(cases(pack=st.just("concat")), st.data())
@settings(max_examples=100, deadline=None)
def test_concat_equals_the_documents_laid_end_to_end(case, data):
    planned, lengths = case
    stream, num_samples = read_stream(planned)
    align, length = stream.settings.align, stream.settings.sequence_length
    flat = []
    for number in range(planned.end_epoch):
        for document in planned.order.read(number, 0, len(lengths))[0].tolist():
            flat += [(document, i) for i in range(lengths[document])]
            flat += [None] * (-int(lengths[document]) % align)
    sample = data.draw(st.integers(0, num_samples - 1))
    laid = []
    for piece in stream.layout(sample):
        laid += [(piece.document, piece.start + i) for i in range(piece.tokens)]
        laid += [None] * piece.padding
    assert laid == flat[sample * length : sample * length + length + 1]


@given(cases(end=False), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_stream_without_end_goes_on_the_same(case, sample):
    """Prefix stability: an end further away, or more samples planned, does not move a sample."""
    endless, lengths = case
    ended = plan_stream(
        endless.settings,
        lengths,
        seed=endless.order.split.key - 1,
        end_epoch=40,
        segment=endless.segment_documents,
    )
    full, num_samples = read_stream(ended)
    sample = min(sample, num_samples - 2)
    if sample >= 0:
        short, _ = read_stream(endless, sample + 1)
        assert short.layout(sample) == full.layout(sample)
        assert short.mark(sample + 1) == full.mark(sample + 1)
        sizes = next(islice(endless.sizes(), 1))[0]
        assert (
            sizes[:5].tolist()
            == np.concatenate([s for s, _ in ended.sizes()])[: len(sizes[:5])].tolist()
        )


@given(cases(end=False), st.integers(0, 12), settings_of(), st.integers(0, 5), settings_of())
@settings(max_examples=300, deadline=None)
def test_changes_of_packing_in_mid_epoch_drop_and_repeat_nothing(
    case, samples, changed, more_samples, changed_again
):
    """Twice another packing, length and alignment: all tokens stay balanced within one."""
    planned, lengths = case
    seed = planned.order.split.key - 1
    used = Counter()

    def take(planned, samples):
        stream, samples = read_stream(planned, samples)
        used.update(t for j in range(samples) for t in inputs_of(stream, j))
        check_layouts(stream, range(samples)[::-1])
        check_layouts(stream, range(samples)[samples // 2 :])
        return stream.mark(samples)

    mark = take(planned, samples)
    for number, change in ((more_samples, changed), (None, changed_again)):
        balanced = every_token(lengths, 1)
        times = {used[token] for token in balanced}
        assert max(times) - min(times) <= 1
        mark = Mark.model_validate_json(mark.model_dump_json())
        epoch = sum(used.values()) // sum(lengths)
        after = plan_stream(
            change,
            lengths,
            seed=seed,
            start=mark,
            tokens_before=sum(used.values()),
            end_epoch=None if number is not None else epoch + 2,
            segment=planned.segment_documents,
        )
        total = after.total_tokens
        before = sum(used.values())
        mark = take(after, number)
        if total is not None:
            assert sum(used.values()) == before + total
    assert used == every_token(lengths, epoch + 2)


def test_dropping_what_an_epoch_has_left_would_be_seen():
    """Negative control: going on at the mark's position, without the segment's leftovers."""
    lengths = [5, 9, 3, 7]
    planned = plan_stream(StreamSettings(8), lengths)
    stream, _ = read_stream(planned, 1)
    mark = stream.mark(1)
    used = Counter(inputs_of(stream, 0))
    forgetful = Mark(epoch=mark.epoch, position=mark.position)
    rest = plan_stream(
        StreamSettings(8), lengths, start=forgetful, tokens_before=sum(lengths), end_epoch=2
    )
    stream, num_samples = read_stream(rest)
    used.update(t for j in range(num_samples) for t in inputs_of(stream, j))
    assert used != every_token(lengths, 2)


def test_held_out_documents_are_in_no_epoch():
    lengths = list(range(1, 60))
    planned = plan_stream(StreamSettings(16), lengths, num_held_out=9, end_epoch=2)
    stream, num_samples = read_stream(planned)
    seen = {d for j in range(num_samples) for d, _ in inputs_of(stream, j)}
    assert len(seen) == 50


def test_epochs_and_sources_have_their_own_orders():
    lengths = np.full(50, 3, dtype=np.int32)

    def order(name, seed, epoch):
        return TrainingOrder(Given(lengths), Split(0, 50, 0), seed=seed, name=name).read(
            epoch, 0, 50
        )[0]

    orders = [order("a", 1, 0), order("a", 1, 1), order("b", 1, 0), order("a", 2, 0)]
    assert len({tuple(o) for o in orders}) == 4
    assert (order("a", 1, 1) == orders[1]).all()


@pytest.mark.parametrize("pack", ["concat", "whole"])
def test_a_sample_decodes_its_own_segments_only(pack, monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 60, 20_000)
    planned = plan_stream(StreamSettings(64, pack), lengths, end_epoch=3)
    stream, num_samples = read_stream(planned)
    read = []
    original = TrainingOrder.read
    monkeypatch.setattr(
        TrainingOrder, "read", lambda self, *place: read.append(place) or original(self, *place)
    )
    stream.layout(num_samples * 5 // 6)
    assert 1 <= len(read) <= (2 if pack == "concat" else 1)
    assert {epoch for epoch, _, _ in read} == {2}
    segment = {"concat": 128, "whole": 8192}[pack]  # 8192: two thousand packs
    assert all(first % segment == 0 and count <= segment for _, first, count in read)
    stream.layout(num_samples * 5 // 6)
    assert len(read) <= 2  # kept


@pytest.mark.parametrize("align", [1, 16])
def test_tables_in_many_parts_are_tables_in_one(align, monkeypatch):
    lengths = np.random.default_rng(1).integers(0, 90, 5_000)

    planned = plan_stream(StreamSettings(64, align=align), lengths, num_held_out=300)
    rows = [planned.segments.read(row).lengths for row in range(40)]  # two epochs and more
    slots = [int((-(-row // align) * align).sum()) for row in rows]

    def make():
        planned = plan_stream(StreamSettings(64, align=align), lengths, num_held_out=300)
        sizes = np.concatenate([next(chunk)[0] for chunk in [planned.sizes()] for _ in range(9)])
        return planned.table(9_000), sizes[:3_000]

    whole, sizes = make()
    monkeypatch.setattr("megatron_math.blend.tables.DOCUMENTS_AT_ONCE", 512)
    parts, parted_sizes = make()
    assert whole.shape == parts.shape
    assert (whole == parts).all()
    assert whole[:, :41].tolist() == [[0, *np.cumsum([*map(sum, rows)])], [0, *np.cumsum(slots)]]
    common = min(len(sizes), len(parted_sizes))
    assert common > 100
    assert (sizes[:common] == parted_sizes[:common]).all()


def test_far_beyond_32_bits_by_long_documents():
    """Three documents of 2^31 - 1 tokens, hundreds of epochs: offsets are Python integers."""
    lengths = np.full(3, 2**31 - 1, dtype=np.int32)
    planned = plan_stream(StreamSettings(2**28), lengths, end_epoch=500)
    assert planned.total_tokens == 1500 * (2**31 - 1)
    stream, num_samples = read_stream(planned)
    sample = num_samples - 1
    slot = sample * 2**28
    epoch, inside = divmod(slot, 3 * (2**31 - 1))
    position, offset = divmod(inside, 2**31 - 1)
    check_layouts(stream, [sample, 0, sample // 2, sample])
    piece = stream.layout(sample)[0]
    assert piece.document == planned.order.read(epoch, 0, 3)[0][position]
    assert (piece.start, piece.epoch) == (offset, epoch)
    assert stream.tokens_before(sample) == slot


@pytest.mark.parametrize("pack", ["concat", "whole"])
def test_a_source_smaller_than_a_sample(pack):
    stream, num_samples = read_stream(plan_stream(StreamSettings(16, pack), [2, 1], end_epoch=7))
    assert num_samples == {"concat": 2, "whole": 7}[pack]
    assert sum(len(inputs_of(stream, j)) for j in range(num_samples)) == 21


def test_batches_of_a_stream_without_its_held_out_documents():
    lengths = np.random.default_rng(2).integers(0, 60, 3_000)
    planned = plan_stream(StreamSettings(48, align=8), lengths, num_held_out=400, end_epoch=4)
    stream, num_samples = read_stream(planned)
    check_layouts(stream, np.random.default_rng(3).integers(0, num_samples, 300).tolist())
    for wrong in (-1, num_samples):
        with pytest.raises(ValueError, match=f"sample {wrong} of 48 slots begins outside 0 to"):
            stream.layouts([0, wrong])


def test_all_packings_are_planned():
    from megatron_math.dataset.cuts import STREAMS

    assert PLANNED.keys() == STREAMS.keys()
