"""The patch table: every name exists upstream, nothing happens on a GPU, answers are right."""

import pytest
import torch

from megatron_math.device import on_cpu
from megatron_math.device.on_cpu import PATCHES, Patch, patch_cpu


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_the_patched_name_exists_upstream(patch):
    owner, attribute = patch.locate()
    assert hasattr(owner, attribute)
    assert patch.why
    assert patch.seen


@pytest.mark.parametrize("name", ["torch.cuda.no_such_name", "megatron.core.gone._lazy_call"])
def test_a_name_that_disappeared_is_seen(name):
    with pytest.raises(AttributeError):
        Patch(name, "control", lambda original: original).locate()


def test_no_name_is_patched_twice():
    names = [patch.name for patch in PATCHES]
    assert len(set(names)) == len(names)


def test_nothing_is_patched_where_there_is_a_gpu(monkeypatch):
    made = []
    spy = Patch("torch.cuda.synchronize", "control", lambda original: made.append(1) or original)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(on_cpu, "PATCHES", (spy,))
    monkeypatch.setattr(on_cpu, "_applied", False)
    with pytest.raises(AssertionError, match="nothing is patched"):
        patch_cpu()
    assert not made


def test_patched_names_answer_for_the_cpu():
    patch_cpu()
    before = torch.zeros
    patch_cpu()
    assert torch.zeros is before  # once only
    assert torch.cuda.current_device() == torch.device("cpu")
    assert torch.zeros(2, device="cuda").device.type == "cpu"
    assert torch.zeros(2, device="meta").device.type == "meta"
    assert torch.zeros(2).cuda().type() == "torch.cuda.FloatTensor"
    assert torch.zeros(2).type(torch.int64).dtype == torch.int64
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("name", ["all_gather", "reduce_scatter"])
def test_a_lone_process_sends_nothing_and_two_do(name):
    class Group:
        def __init__(self, size):
            self.size = lambda: size

    patch = next(patch for patch in PATCHES if patch.name.endswith(f"dist_{name}_func"))
    calls = []
    send = patch.make(lambda output, given, **kwargs: calls.append(kwargs["group"].size()))
    buffer = torch.zeros(4)
    send(buffer, buffer[:], group=Group(1), async_op=False)
    assert calls == []
    send(buffer, buffer[:2], group=Group(2), async_op=False)
    send(buffer, torch.ones(4), group=Group(1), async_op=False)  # not its own part: a real copy
    assert calls == [2, 1]
