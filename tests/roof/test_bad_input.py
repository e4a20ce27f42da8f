"""What people get wrong: one sentence on stderr, exit code 2, and no half-written file."""

import json
import os
from pathlib import Path

import pytest
import yaml

from megatron_math.cli import main

ROAD = {
    "name": "road",
    "base": {"preset": "tiny"},
    "model": {"vocab_size": 512, "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
              "num_query_groups": 2, "ffn_hidden_size": 64, "head_dim": 16},
    "synthesize": {"problems": 300, "heldout": 10},
    "index": {
        "tokenizer": {"train": {"vocab_size": 400}},
        "sources": {"problems": {"stage": "10_synthesize", "file": "problems.jsonl"}},
        "workers": 1,
    },
    "blend": {"sequence_length": 32, "tokens": 2048, "mix": {"problems": {"share": 1}}},
    "precision": {"dtype": "fp32"},
    "train": {"global_batch_size": 4, "micro_batch_size": 2, "lr": 1e-3, "tensorboard": False,
              "validation_samples": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A road whose stages up to the blend are done."""
    folder = tmp_path_factory.mktemp("bad_input")
    (folder / "road.yaml").write_text(yaml.safe_dump(ROAD))
    assert run(folder, "run", "--to", "blend") == 0
    return folder


def run(folder: Path, verb: str, *arguments: str) -> int:
    return main([verb, str(folder / "road.yaml"), "--runs", str(folder / "runs"), *arguments])


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


CASES = {
    "an unknown key": (["train", "train.learning_rate=1"], "unknown key 'learning_rate'"),
    "an unknown section": (["train", "trian.lr=1"], "did you mean 'train'"),
    "a share of 0": (["blend", "blend.mix.problems.share=0"], "greater than 0"),
    "a missing index": (
        ["blend", "blend.mix={web: {share: 1, path: /nowhere/web}}"],
        "/nowhere/web",
    ),
    "a missing corpus": (
        ["index", "index.sources={web: {path: /nowhere/web.jsonl}}"],
        "/nowhere/web.jsonl",
    ),
    "a missing stage": (
        ["evaluate", "evaluate.benchmarks=[{name: heldout_templates, stage: 10_synthesize}]"],
        "60_export is needed and is not finished",
    ),
    "a batch that does not divide": (
        ["train", "train.global_batch_size=3"],
        "global_batch_size 3 is not a multiple of micro_batch_size 2",
    ),
    "mixed kinds": (
        ["blend", "blend.mix={a: {share: 1, source: problems}, b: {epochs: 1, source: problems}}"],
        "share, epochs and tokens",
    ),
    "an override without a value": (["train", "train.lr"], "is not of the form"),
    "an unknown preset": (["run", "--to", "base", "base.preset=huge"], "huge"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sentence_and_exit_code_2(
    case: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (verb, *arguments), message = CASES[case]
    before = files(folder)
    assert run(folder, verb, *arguments) == 2
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert files(folder) == before


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            ["parallel.tensor=2", "parallel.pipeline=2"],
            "tensor 2 x pipeline 2 x context 1 = 4 does not divide world 6",
        ),
        (
            ["parallel.tensor=2", "parallel.data=2"],
            "parallel.data 2 was asked, and 6 processes leave 3",
        ),
    ],
)
def test_a_layout_that_is_not_the_launchers(folder: Path, layout: list[str], message: str) -> None:
    import subprocess
    import sys

    environment = os.environ | {
        "RANK": "0", "WORLD_SIZE": "6", "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555",
    }  # fmt: skip
    command = [sys.executable, "-m", "megatron_math.train", str(folder / "road.yaml")]
    result = subprocess.run(
        [*command, "--runs", str(folder / "runs"), *layout],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr


def test_a_line_that_is_not_json_is_named(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good = [f'{{"text": "{word} is a word of {len(word)} letters"}}' for word in dir(os)]
    bad = write(tmp_path / "bad.jsonl", good[0], '{"text": "two"', *good[1:])
    before = files(folder)
    assert run(folder, "index", f"index.sources={{bad: {{path: {bad}}}}}") == 2
    said = capfd.readouterr().err
    assert f"{bad}, line 2" in said or f"{bad}:2" in said
    after = files(folder)
    assert not any("bad_text_document" in name for name in after)
    assert {n: b for n, b in before.items() if "_document" in n}.items() <= after.items()


def test_a_tokenizer_that_is_too_large_for_the_model(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    road = json.loads(json.dumps(ROAD)) | {"name": "small"}
    road["model"]["vocab_size"] = 300
    (tmp_path / "road.yaml").write_text(yaml.safe_dump(road))
    assert main(["run", str(tmp_path / "road.yaml"), "--runs", str(tmp_path), "--to", "train"]) == 2
    said = capfd.readouterr().err
    assert "tokenizer of 400 ids" in said
    assert "vocabulary of 300" in said
    assert not (tmp_path / "small" / "50_train").exists()


def test_a_checkpoint_of_another_architecture(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """model.json says four layers, the weights beside it are of a model with two."""
    import shutil

    shutil.copytree(folder / "runs", tmp_path / "runs", symlinks=True)
    model = tmp_path / "runs/road/00_base/model.json"
    content = json.loads(model.read_text()) | {"num_layers": 4}
    model.write_text(json.dumps(content))
    arguments = ["train", str(folder / "road.yaml"), "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 2
    said = capfd.readouterr().err
    assert "00_base/checkpoint/release" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "runs/road/50_train").glob("checkpoints/iter_*"))
