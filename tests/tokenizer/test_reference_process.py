"""The reference in a process of its own: the same ids, and a loss that costs time alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.index.preprocess import preprocess
from megatron_math.tokenizer import Tokenizer, load, load_tokenizer, reference_process
from megatron_math.tokenizer import gigatoken as gigatoken_module
from megatron_math.tokenizer.encoder import flat_texts
from megatron_math.tokenizer.huggingface import HuggingFaceTokenizer
from megatron_math.tokenizer.reference_process import ReferenceProcess
from megatron_math.tokenizer.sample import SAMPLE

pytest.importorskip("gigatoken", reason="the fast engine has no wheel here")
FACTS = ("kind", "size", "eod_id", "bos_id", "adds_bos", "fingerprint")


@pytest.fixture
def file(tokenizer_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small tokenizer.json that is loaded as large ones are, on one core too."""
    monkeypatch.setattr(load, "LARGE_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    path = tokenizer_files["HuggingFaceTokenizer"]
    return path / "tokenizer.json" if path.is_dir() else path


def process_of(tokenizer: Tokenizer) -> "subprocess.Popen[bytes]":
    assert isinstance(tokenizer.checker, ReferenceProcess)
    (_, _, (_, process), _) = tokenizer.checker.close.peek()  # type: ignore[misc]
    return process


def ends(process_id: int) -> bool:
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_it_is_the_same_tokenizer(file: Path) -> None:
    plain, beside = load_tokenizer(file), load_tokenizer(file, with_encoder=True)
    assert [getattr(beside, name) for name in FACTS] == [getattr(plain, name) for name in FACTS]
    assert beside.names_in_text() == plain.names_in_text()
    assert "_engine" not in vars(beside)  # the library has not been loaded here
    encoder = beside.open_encoder()
    assert (encoder.name, encoder.why) == (plain.open_encoder().name, plain.open_encoder().why)
    several = [f"{text} {i}" for i, text in enumerate(SAMPLE * 3)]
    buffers = flat_texts(several)
    expected = plain.open_encoder("reference").encode_flat(*buffers)
    for checker in (beside.open_checker(), encoder):
        for found, wanted in zip(checker.encode_flat(*buffers), expected, strict=True):
            assert found.tolist() == wanted.tolist()
            assert found.dtype == wanted.dtype
    part = buffers[0], buffers[1][50:60]  # texts from the middle of a buffer
    assert beside.open_checker().encode_flat(*part)[0].tolist() == [
        i for row in plain.encode_batch(several[50:59]) for i in row
    ]
    assert "_engine" not in vars(beside)
    assert beside.encode_batch(several) == plain.encode_batch(several)  # loads it here


def test_a_large_vocabulary_is_loaded_so(deepseek_file: Path) -> None:
    tokenizer = load_tokenizer(deepseek_file, with_encoder=True)
    alone = len(os.sched_getaffinity(0)) < 2
    assert alone or isinstance(tokenizer.checker, ReferenceProcess)
    assert tokenizer.open_encoder().why.startswith("same ids as tokenizers on the ")


def test_a_lost_process_is_replaced(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(file, with_encoder=True)
    buffers = flat_texts(["one two", "three"])
    expected = [part.tolist() for part in tokenizer.open_checker().encode_flat(*buffers)]
    process = process_of(tokenizer)
    process.kill()
    process.wait()
    for _ in range(2):
        found = tokenizer.open_checker().encode_flat(*buffers)
        assert [part.tolist() for part in found] == expected
    assert caplog.text.count("its process is gone") == 1


def test_it_ends_with_the_tokenizer(file: Path) -> None:
    tokenizer = load_tokenizer(file, with_encoder=True)
    process = process_of(tokenizer)
    assert process.poll() is None
    tokenizer.checker.close()  # type: ignore[union-attr]  # what the collector calls
    assert process.returncode == 0


def test_it_ends_with_who_began_it(deepseek_file: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from megatron_math.tokenizer.reference_process import ReferenceProcess\n"
        "process = ReferenceProcess(Path(sys.argv[1])); process.tokenizer()\n"
        "print(process.close.peek()[2][1].pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(deepseek_file)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    process_id = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert ends(process_id)


def test_an_unusable_file_is_refused_in_the_same_words(tmp_path: Path, file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    content["added_tokens"] = []
    (tmp_path / "no_eod.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "half.json").write_bytes(file.read_bytes()[:1000])
    for path in (tmp_path / "no_eod.json", tmp_path / "half.json"):
        with pytest.raises(UserError) as plain:
            HuggingFaceTokenizer(path)
        with pytest.raises(UserError) as beside:
            load_tokenizer(path, with_encoder=True)
        assert str(beside.value) == str(plain.value)


@pytest.mark.parametrize("fault", ["no process", "it dies at once"])
def test_without_a_process_all_is_loaded_here(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no more processes")

    if fault == "no process":
        monkeypatch.setattr(reference_process.subprocess, "Popen", refuse)
    else:
        monkeypatch.setattr(sys, "executable", "/bin/false")
    tokenizer = load_tokenizer(file, with_encoder=True)
    assert tokenizer.checker is None
    assert "no process for the reference tokenizer" in caplog.text
    assert tokenizer.open_encoder().name.startswith("gigatoken 0.")


def test_the_check_of_a_corpus_still_finds_a_difference(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast engine goes wrong on a word of the corpus that is not among the probes."""
    plain = load_tokenizer(file)
    wrong = plain.encode(" zygote")[-1]
    right = gigatoken_module.GigatokenEncoder.encode_flat

    def encode_flat(self: Any, text: Any, offsets: Any) -> tuple[Any, Any]:
        ids, lengths = right(self, text, offsets)
        if b"zygote" in text.tobytes():
            ids = ids.copy()
            ids[ids == wrong] += 1
        return ids, lengths

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"a zygote and {i} more"}) + "\n" for i in range(50))
    )

    def run(prefix: str) -> dict[str, Any]:
        (sidecar,) = preprocess(
            [str(corpus)], ["text"], tmp_path / prefix, append_eod=True,
            tokenizer_type="HuggingFaceTokenizer", tokenizer_model=file,
        )  # fmt: skip
        return sidecar

    right_one = run("right")
    assert right_one["engine"]["name"].startswith("gigatoken 0.")
    assert right_one["engine"]["compared"] == 50
    monkeypatch.setattr(gigatoken_module.GigatokenEncoder, "encode_flat", encode_flat)
    mended = run("mended")
    assert mended["engine"]["name"].startswith("tokenizers ")
    assert "disagree about" in mended["engine"]["why"]
    assert mended["bin"]["blake3"] == right_one["bin"]["blake3"]
