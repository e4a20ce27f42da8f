"""Loading, saving and refusing tokenizers of every kind."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.tokenizer import KINDS, load_tokenizer
from megatron_math.tokenizer.sample import SAMPLE


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_and_auto_finds_the_kind(
    kind: str, tokenizer_files: dict[str, Path]
) -> None:
    tokenizer = load_tokenizer(tokenizer_files[kind])
    assert tokenizer.kind == kind
    for text, ids in zip(SAMPLE, tokenizer.encode_batch(SAMPLE), strict=True):
        assert ids == tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.size for token in ids)
        assert tokenizer.eod_id not in ids
        assert tokenizer.bos_id not in ids  # encode adds none, even where the tokenizer asks for it
    assert tokenizer.decode([tokenizer.eod_id]) == ""


def test_ids_are_those_of_the_engines_themselves(tokenizer_files: dict[str, Path]) -> None:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

    path = tokenizer_files["SentencePieceTokenizer"]
    pieces = SentencePieceProcessor(model_file=str(path))
    assert load_tokenizer(path).encode_batch(SAMPLE) == [pieces.encode(text) for text in SAMPLE]
    path = tokenizer_files["HuggingFaceTokenizer"]
    engine = Tokenizer.from_file(str(path))
    expected = [engine.encode(text, add_special_tokens=False).ids for text in SAMPLE]
    assert load_tokenizer(path).encode_batch(SAMPLE) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_save_keeps_the_fingerprint(
    kind: str, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_files[kind], kind)
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.describe() == tokenizer.describe()
    assert again.adds_bos == tokenizer.adds_bos


def test_fingerprints_tell_tokenizers_apart(
    tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    assert len({load_tokenizer(path).fingerprint for path in tokenizer_files.values()}) == 3
    # The same engine with another end of document makes other documents.
    original = load_tokenizer(tokenizer_files["HuggingFaceTokenizer"])
    original.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["eos_token"] = "<s>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).fingerprint != original.fingerprint


def test_llama3_special_tokens(tokenizer_files: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tokenizer_files["TikTokenizer"])
    assert (tokenizer.bos_id, tokenizer.eod_id, tokenizer.size) == (8000, 8001, 8256)
    names = tokenizer.special  # type: ignore[attr-defined]
    # As published for Llama 3.1, where the 8,000 here are 128,000.
    assert names[8000 + 2] == "<|reserved_special_token_0|>"
    assert names[8000 + 5] == "<|step_id|>"
    assert names[8000 + 9] == "<|eot_id|>"
    assert names[8255] == "<|reserved_special_token_245|>"
    assert len(set(names.values())) == 256
    assert tokenizer.encode("<|end_of_text|>") != [8001]


def test_a_run_of_spaces_that_tiktoken_cannot_take(tokenizer_files: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tokenizer_files["TikTokenizer"])
    text = "a" + " " * 1_000_000 + "b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


@pytest.fixture
def bare(tokenizer_files: dict[str, Path], tmp_path: Path) -> Path:
    """A tokenizer.json with nothing beside it, whose special tokens have unusual names."""
    text = tokenizer_files["HuggingFaceTokenizer"].read_text()
    path = tmp_path / "tokenizer.json"
    path.write_text(text.replace('"</s>"', '"<stop>"').replace('"<s>"', '"<go>"'))
    return path


def test_a_missing_eod_is_refused_with_the_cure(bare: Path) -> None:
    with pytest.raises(UserError, match=r"which token ends a document.*tokenizer_config\.json"):
        load_tokenizer(bare)
    (bare.parent / "tokenizer_config.json").write_text('{"eos_token": "<stop>"}')
    assert load_tokenizer(bare).eod_id == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"eos_token": {"content": "<stop>", "special": True}}),
        ("special_tokens_map.json", {"eos_token": "<stop>", "bos_token": "<go>"}),
        ("generation_config.json", {"eos_token_id": [1, 7]}),
        ("config.json", {"eos_token_id": 1, "bos_token_id": 0}),
    ],
)
def test_eod_is_found_in_every_usual_place(bare: Path, name: str, content: dict) -> None:
    (bare.parent / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(bare.parent)
    assert tokenizer.eod_id == 1
    saved = bare.parent / "saved"
    tokenizer.save(saved)
    assert load_tokenizer(saved).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"eos_token": "<absent>"}', "'<absent>', which is not in the vocabulary"),
        ("{", "not valid JSON"),
        ("[]", "a JSON object is expected"),
    ],
)
def test_wrong_files_beside_it_are_named(bare: Path, content: str, message: str) -> None:
    (bare.parent / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(bare)
    (bare.parent / "tokenizer_config.json").unlink()
    (bare.parent / "config.json").write_text('{"eos_token_id": 99999}')
    with pytest.raises(UserError, match="99999 as eos_token_id"):
        load_tokenizer(bare)


def test_bos_is_asked_for_by_post_processor_or_config(
    tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_files["HuggingFaceTokenizer"])
    assert tokenizer.adds_bos
    assert tokenizer.bos_id == 0
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    assert not load_tokenizer(tmp_path).adds_bos
    assert not load_tokenizer(tokenizer_files["SentencePieceTokenizer"]).adds_bos


def test_a_saved_truncation_does_not_cut(tokenizer_files: dict[str, Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    engine = Tokenizer.from_file(str(tokenizer_files["HuggingFaceTokenizer"]))
    expected = engine.encode(SAMPLE[0], add_special_tokens=False).ids
    engine.enable_truncation(5)
    engine.enable_padding(length=400)
    shutil.copytree(tokenizer_files["HuggingFaceTokenizer"].parent, tmp_path, dirs_exist_ok=True)
    engine.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(SAMPLE[0]) == expected
    assert len(expected) > 5


def _ranks(entries: list[tuple[bytes, int]]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in entries)


SINGLE = [(bytes([value]), value) for value in range(256)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_ranks(SINGLE) + "not base64!\n", r"line 257: .*base64 rank"),
        (_ranks([*SINGLE, (b"ab", 300)]), "ranks of its 257 tokens"),
        (_ranks([(token, rank) for token, rank in SINGLE if rank < 255]), r"single bytes \[255\]"),
    ],
)
def test_broken_rank_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.model").write_text(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match="unknown tokenizer type 'Bert'"):
        load_tokenizer(tmp_path, "Bert")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"holds no one .*it holds \['readme.txt'\]"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x00\x01\x02 nothing")
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"is not a tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_no_torch_no_transformers() -> None:
    code = (
        "import sys, megatron_math.tokenizer, megatron_math.index.run; "
        "sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
