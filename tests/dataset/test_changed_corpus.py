"""A corpus rewritten at the same prefix is refused in no time, one that was only moved is not."""

import os
import shutil
import time

import numpy as np
import pytest
from written_indexes import write_index

from megatron_math.base.errors import UserError
from megatron_math.base.files import blake3_file, read_json, write_json
from megatron_math.base.road import Road
from megatron_math.blend.run import run
from megatron_math.dataset import fingerprint
from megatron_math.dataset.plan import load_plan

NUM_DOCUMENTS, LENGTH = 3_000, 100  # 1.2 MB: the probe's 64 blocks are a fifth of it
LAST_BLOCK = 4 * NUM_DOCUMENTS * LENGTH - fingerprint.PROBE_BLOCK_BYTES
UNSEEN = LAST_BLOCK * 41 // 126 + 2_000  # a byte of .bin between two of the probe's 64 blocks


@pytest.fixture(params=["with a sidecar", "of core"])
def planned(tmp_path, request):
    """(plan folder, prefix)"""
    prefix = tmp_path / "corpus" / "web"
    documents = np.arange(NUM_DOCUMENTS * LENGTH).reshape(NUM_DOCUMENTS, LENGTH) % 60_000
    write_index(prefix, documents.tolist())
    if request.param == "of core":
        prefix.with_name("web.json").unlink()
    (tmp_path / "r.yaml").write_text(
        f"name: r\nblend: {{sequence_length: 64, tokens: 9k, mix: {{web: {{share: 1, path: "
        f"{prefix}}}}}}}\n"
    )
    return run(road_in(tmp_path)).folder, prefix


def road_in(tmp_path):
    return Road.load(tmp_path / "r.yaml", runs=tmp_path / "runs")


def bin_of(prefix):
    return prefix.with_name(prefix.name + ".bin")


def flip(path, at=UNSEEN):
    """One token becomes another, in place; the size stays."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def refused(folder, words):
    begun = time.perf_counter()
    with pytest.raises(UserError, match=words):
        load_plan(folder)
    assert time.perf_counter() - begun < 1


def test_untouched_files_are_not_read(planned, monkeypatch):
    folder, _ = planned
    monkeypatch.setattr(fingerprint, "probe", None)  # it would fail if called
    monkeypatch.setattr(fingerprint, "blake3_file", None)
    load_plan(folder)


def test_one_token_that_the_probe_does_not_see(planned):
    folder, prefix = planned
    index = load_plan(folder).index("web")
    before = fingerprint.probe([index.bin_path, index.idx_path])
    flip(bin_of(prefix))
    assert fingerprint.probe([index.bin_path, index.idx_path]) == before
    refused(folder, r"'web' has changed since the plan.*: the digest of \.bin is")


def test_one_token_under_restored_times(planned):
    """Neither the size nor the time of the last write tells, the time of the last change does."""
    folder, prefix = planned
    status = bin_of(prefix).stat()
    flip(bin_of(prefix))
    os.utime(bin_of(prefix), ns=(status.st_atime_ns, status.st_mtime_ns))
    sidecar = prefix.with_name("web.json")
    if sidecar.is_file():  # a sidecar younger than the file vouches for it: the times are a lie
        load_plan(folder)
    else:
        refused(folder, r"the digest of \.bin is")


def test_another_corpus_with_its_own_sidecar(planned, tmp_path):
    """Same sizes, same probe; no file is hashed, the sidecar says what was written."""
    folder, prefix = planned
    flip(bin_of(prefix))
    sidecar = prefix.with_name("web.json")
    if not sidecar.is_file():
        pytest.skip("of core: no sidecar")
    content = read_json(sidecar)
    content["bin"]["blake3"] = blake3_file(bin_of(prefix))
    write_json(sidecar, content)
    refused(folder, r"its sidecar says digest \w+ for \.bin, not")
    with pytest.raises(UserError, match="run blend again"):
        load_plan(folder)
    run(road_in(tmp_path))
    load_plan(folder)


def test_a_copy_elsewhere_and_a_touched_file_are_the_same_corpus(planned, tmp_path):
    folder, prefix = planned
    shutil.copytree(prefix.parent, tmp_path / "copy")
    content = read_json(folder / "plan.json")
    content["indexes"]["web"]["prefix"] = str(tmp_path / "copy" / "web")
    write_json(folder / "plan.json", content)
    load_plan(folder)
    os.utime(tmp_path / "copy" / "web.bin")
    load_plan(folder)


def test_what_nothing_vouches_for_is_hashed_by_blend_and_not_by_a_thousand_ranks(
    planned, tmp_path, monkeypatch
):
    folder, prefix = planned
    monkeypatch.setattr("megatron_math.dataset.plan.HASHED_WHEN_OPENED", 1000)
    monkeypatch.setattr(fingerprint, "HASHED_WHEN_OPENED", 1000)
    plan = load_plan(folder)
    os.utime(bin_of(prefix))
    with pytest.raises(UserError, match=r"bytes are too many to hash now; 'megatron-math blend'"):
        plan.verify(hash_bytes=1000)
    assert run(road_in(tmp_path)).was_done  # hashed, found equal, the times noted
    plan.verify(hash_bytes=1000)
    flip(bin_of(prefix))
    if prefix.with_name("web.json").is_file():
        with pytest.raises(UserError, match="the sidecar is stale too, write the index again"):
            run(road_in(tmp_path))
    else:
        assert not run(road_in(tmp_path)).was_done  # another corpus, another plan


def test_other_sizes_are_refused(planned):
    folder, prefix = planned
    write_index(prefix, [[7] * LENGTH] * (NUM_DOCUMENTS - 1))
    refused(folder, "other sizes or bytes")


def test_plans_of_equal_content_are_equal_whatever_the_times(planned, tmp_path):
    folder, prefix = planned
    before = (folder / "plan.json").read_bytes()
    (folder / "DONE").unlink()
    for path in prefix.parent.iterdir():
        if path.suffix != ".json":
            os.utime(path, (0, 0))
    run(road_in(tmp_path))
    assert (folder / "plan.json").read_bytes() == before
