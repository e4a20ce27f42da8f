"""Streams: epochs are epochs, every token is served once an epoch, whatever cuts and packs."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_math.dataset.cuts import STREAMS
from megatron_math.dataset.stream import StreamSettings

lengths_lists = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@st.composite
def streams(draw, packs=("concat", "whole"), end=True):
    """(stream, lengths): a stream over some documents, with an end after 1 to 3 epochs."""
    lengths = np.array(draw(lengths_lists), dtype=np.int32)
    align = draw(st.integers(1, 4))
    length = align * draw(st.integers(1, 8))
    settings_ = StreamSettings("s", draw(st.integers(0, 99)), length, draw(st.sampled_from(packs)),
                               align)  # fmt: skip
    documents = np.arange(len(lengths), dtype=np.int64)
    end_epoch = draw(st.integers(1, 3)) if end else None
    stream = STREAMS[settings_.pack](settings_, lengths, documents, end_epoch=end_epoch)
    return stream, lengths


def inputs_of(stream, sample):
    """(document, place) of every real input token of a sample, labels beyond S left out."""
    tokens, room = [], stream.settings.sequence_length
    for piece in stream.layout(sample):
        count = min(piece.tokens, room)
        tokens += [(piece.document, piece.start + i) for i in range(count)]
        room -= count + min(piece.padding, room - count)
    return tokens


def all_sizes(stream):
    chunks = list(stream.sizes())
    assert [last for _, last in chunks] == [False] * (len(chunks) - 1) + [True]
    return np.concatenate([sizes for sizes, _ in chunks]).tolist()


@given(streams())
@settings(max_examples=200, deadline=None)
def test_every_token_is_an_input_once_an_epoch_and_sizes_count_them(case):
    stream, lengths = case
    samples = [inputs_of(stream, j) for j in range(stream.num_samples())]
    seen = Counter(token for sample in samples for token in sample)
    assert seen == {
        (d, i): stream.end_epoch for d, length in enumerate(lengths) for i in range(length)
    }
    assert [len(sample) for sample in samples] == all_sizes(stream)
    assert stream.total_tokens == sum(len(sample) for sample in samples)
    for j in range(len(samples) + 1):
        assert stream.tokens_before(j) == sum(len(sample) for sample in samples[:j])


@given(streams())
@settings(max_examples=200, deadline=None)
def test_an_epoch_is_an_epoch(case):
    """At every sample: no document begins again before all others began as often."""
    stream, lengths = case
    begun = Counter(dict.fromkeys(range(len(lengths)), 0))
    for j in range(stream.num_samples()):
        begun.update(document for document, place in inputs_of(stream, j) if place == 0)
        assert max(begun.values()) - min(begun.values()) <= 1


def test_drawing_documents_at_random_is_no_epoch():
    """Negative control for the test above: independent draws repeat some before all were seen."""
    draws = np.random.default_rng(0).integers(0, 50, 50)
    counts = np.bincount(draws, minlength=50)
    assert counts.max() - counts.min() > 1


@given(streams(packs=("whole",)))
@settings(max_examples=200, deadline=None)
def test_whole_cuts_only_what_cannot_fit(case):
    stream, lengths = case
    length = stream.settings.sequence_length
    for j in range(stream.num_samples()):
        for piece in stream.layout(j):
            if lengths[piece.document] <= length:
                assert (piece.start, piece.tokens) == (0, lengths[piece.document])
            else:
                assert piece.start % length == 0


@given(streams(packs=("concat",)), st.data())
@settings(max_examples=100, deadline=None)
def test_concat_equals_the_documents_laid_end_to_end(case, data):
    stream, lengths = case
    align, length = stream.settings.align, stream.settings.sequence_length
    flat = []
    for number in range(stream.end_epoch):
        for document in stream.epoch(number).documents_D.tolist():
            flat += [(document, i) for i in range(lengths[document])]
            flat += [None] * (-int(lengths[document]) % align)
    sample = data.draw(st.integers(0, stream.num_samples() - 1))
    laid = []
    for piece in stream.layout(sample):
        laid += [(piece.document, piece.start + i) for i in range(piece.tokens)]
        laid += [None] * piece.padding
    assert laid == flat[sample * length : sample * length + length + 1]


@given(streams(end=False), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_stream_without_end_goes_on_the_same(case, sample):
    """Prefix stability: an end further away does not move a sample."""
    stream, lengths = case
    documents = np.arange(len(lengths), dtype=np.int64)
    ended = type(stream)(stream.settings, lengths, documents, end_epoch=40)
    sample = min(sample, ended.num_samples() - 2)
    if sample >= 0:
        assert inputs_of(stream, sample) == inputs_of(ended, sample)
        sizes = next(islice(stream.sizes(), 1))[0]
        assert sizes[:5].tolist() == all_sizes(ended)[: len(sizes[:5])]


@given(streams(end=False), st.integers(0, 12), st.sampled_from(["concat", "whole"]),
       st.integers(1, 3), st.integers(1, 9))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_change_of_packing_in_mid_epoch_drops_and_repeats_nothing(
    case, samples, pack, align, factor
):
    """The next stage takes up what is left of the epoch: tokens stay balanced within one."""
    before, lengths = case
    used = Counter(t for j in range(samples) for t in inputs_of(before, j))
    start = before.remainder(samples)
    changed = StreamSettings("s", before.settings.seed, align * factor, pack, align)
    documents = np.arange(len(lengths), dtype=np.int64)
    after = STREAMS[pack](changed, lengths, documents, start=start, end_epoch=start.epoch + 2)
    assert after.tokens_before_start == sum(used.values())
    used.update(t for j in range(after.num_samples()) for t in inputs_of(after, j))
    assert used == {
        (d, i): start.epoch + 2 for d, length in enumerate(lengths) for i in range(length)
    }


def test_epochs_and_sources_have_their_own_orders():
    lengths = np.full(50, 3, dtype=np.int32)
    documents = np.arange(50, dtype=np.int64)

    def order(name, seed, epoch):
        stream = STREAMS["concat"](StreamSettings(name, seed, 8), lengths, documents)
        return stream.epoch(epoch).documents_D.tolist()

    orders = [order("a", 1, 0), order("a", 1, 1), order("b", 1, 0), order("a", 2, 0)]
    assert len({tuple(o) for o in orders}) == 4
    assert order("a", 1, 1) == orders[1]


def test_known_epoch_sizes_spare_the_packing_of_earlier_epochs(monkeypatch):
    lengths = np.array([5, 9, 3, 7, 8, 2], dtype=np.int32)
    documents = np.arange(6, dtype=np.int64)
    whole, stream_settings = STREAMS["whole"], StreamSettings("s", 0, 10, "whole")
    full = whole(stream_settings, lengths, documents, end_epoch=6)
    counts = full.epoch_samples(full.num_samples())
    late = whole(stream_settings, lengths, documents, end_epoch=6, epoch_samples=counts)
    opened = []
    original = whole.epoch
    monkeypatch.setattr(whole, "epoch", lambda self, n: opened.append(n) or original(self, n))
    last = full.num_samples() - 1
    assert late.layout(last) == full.layout(last)
    opened.clear()
    late.layout(last)
    assert set(opened) == {5}


def test_far_beyond_32_bits_by_long_documents():
    """Three documents of 2^31 - 1 tokens, hundreds of epochs: offsets are Python integers."""
    lengths = np.full(3, 2**31 - 1, dtype=np.int32)
    documents = np.arange(3, dtype=np.int64)
    stream = STREAMS["concat"](StreamSettings("s", 0, 2**28), lengths, documents, end_epoch=500)
    assert stream.total_tokens == 1500 * (2**31 - 1)
    sample = stream.num_samples() - 1
    slot = sample * 2**28
    epoch, inside = divmod(slot, 3 * (2**31 - 1))
    position, offset = divmod(inside, 2**31 - 1)
    piece = stream.layout(sample)[0]
    assert piece.document == stream.epoch(epoch).documents_D[position]
    assert piece.start == offset
    assert stream.tokens_before(sample) == slot


@pytest.mark.parametrize("pack", ["concat", "whole"])
def test_a_source_smaller_than_a_sample(pack):
    lengths = np.array([2, 1], dtype=np.int32)
    documents = np.arange(2, dtype=np.int64)
    stream = STREAMS[pack](StreamSettings("s", 0, 16, pack), lengths, documents, end_epoch=7)
    assert stream.num_samples() == {"concat": 2, "whole": 7}[pack]
    assert sum(len(inputs_of(stream, j)) for j in range(stream.num_samples())) == 21
