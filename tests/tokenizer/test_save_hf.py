"""What save_hf writes is what transformers reads."""

import io
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2

from megatron_math.base.errors import UserError
from megatron_math.tokenizer import KINDS, Tokenizer, load_tokenizer
from megatron_math.tokenizer.sample import SAMPLE


def lines_of(shared_data: Path) -> list[str]:
    """Real text of several kinds, in pieces that begin and end anywhere."""
    texts = []
    for name in ("math/stacks_categories.tex", "general/wikitext2_valid.txt", "gsm8k/train.jsonl"):
        text = (shared_data / name).read_text(encoding="utf-8")[:120_000]
        texts += [text[start : start + 1777] for start in range(0, len(text), 1777)]
    return texts


def same_in_transformers(tokenizer: Tokenizer, folder: Path, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_hf(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (*SAMPLE, *texts):
        ids = tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids, text[:80]
        assert theirs.decode(ids, skip_special_tokens=True) == text
    opening = [tokenizer.bos_id] if tokenizer.adds_bos else []
    assert theirs("one").input_ids == [*opening, *tokenizer.encode("one")]
    assert theirs.eos_token_id == tokenizer.eod_id
    assert len(theirs) == tokenizer.size


@pytest.mark.parametrize("kind", KINDS)
def test_same_ids_in_transformers(
    kind: str, tokenizer_files: dict[str, Path], shared_data: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tokenizer_files[kind])
    same_in_transformers(tokenizer, tmp_path, lines_of(shared_data))
    # An index made with the .model and one made with its conversion are known to agree ...
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    # ... until the conversion is changed.
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace(" ", "  ", 1) + " ")
    assert load_tokenizer(tmp_path).fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["SentencePieceTokenizer", "TikTokenizer"])
def test_a_bos_that_is_asked_for_survives(
    kind: str, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    load_tokenizer(tokenizer_files[kind]).save(tmp_path / "a")
    config = tmp_path / "a" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("false", "true"))
    tokenizer = load_tokenizer(tmp_path / "a")
    assert tokenizer.adds_bos
    same_in_transformers(tokenizer, tmp_path / "b", [])
    assert load_tokenizer(tmp_path / "b").adds_bos


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "unigram", "byte_fallback": True},
        {"model_type": "unigram", "normalization_rule_name": "identity", "byte_fallback": True},
        {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "nmt_nfkc"},
        {"model_type": "bpe", "byte_fallback": False, "normalization_rule_name": "identity"},
    ],
    ids=["unigram nfkc", "unigram", "bpe nfkc", "bpe unknown"],
)
def test_models_of_the_default_trainer(tmp_path: Path, shared_data: Path, options: dict) -> None:
    """SentencePiece's own defaults normalise, so text changes; the ids must agree all the same."""
    texts = lines_of(shared_data)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.splitlines()),
        model_writer=model, vocab_size=900, character_coverage=0.98, minloglevel=2, **options,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.save_hf(tmp_path / "hf")
    again = load_tokenizer(tmp_path / "hf")
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)


def test_line_ends_that_the_other_library_normalises_otherwise(tmp_path: Path) -> None:
    """`tokenizers` maps "\\r\\n" as one cluster, SentencePiece as two characters: seen, refused."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE), model_writer=model, model_type="bpe", vocab_size=400,
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    with pytest.raises(UserError, match="nothing was written"):
        load_tokenizer(tmp_path).save_hf(tmp_path / "hf")


def test_a_conversion_that_differs_is_refused(
    tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    """A suffix-space model has no tokenizer.json form here; the check must notice by ids."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer_files["SentencePieceTokenizer"].read_bytes())
    proto.trainer_spec.treat_whitespace_as_suffix = True
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match=r"no exact tokenizer\.json form.*nothing was written"):
        load_tokenizer(tmp_path).save_hf(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
