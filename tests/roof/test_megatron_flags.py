"""Megatron-LM's flags and a road's settings: one table, both ways, nothing ignored in silence."""

import shlex
from pathlib import Path

import pytest

from megatron_math.base.config import Section, load_yaml
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig
from megatron_math.cli import main
from megatron_math.megatron_flags.groups import GROUP_SETTINGS
from megatron_math.megatron_flags.road import SECTIONS, as_road, settings_of
from megatron_math.megatron_flags.table import (
    ALWAYS,
    REFUSED,
    ROWS,
    known_flags,
    read_flags,
    write_flags,
)
from megatron_math.model.config import ModelConfig

EXAMPLES = sorted(
    path
    for path in (Path(__file__).resolve().parents[2] / "examples").glob("*/*.yaml")
    if "\ntrain:" in path.read_text(encoding="utf-8")
)
LLAMA3 = """--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 \\
  --group-query-attention --num-query-groups 8 --vocab-size 128256 --rotary-base 500000 \\
  --max-position-embeddings 8192 --untie-embeddings-and-output-weights \\
  --swiglu --normalization RMSNorm --position-embedding-type rope --disable-bias-linear \\
  --attention-dropout 0 --hidden-dropout 0.0 --reset-position-ids --reset-attention-mask \\
  --eod-mask-loss --data-path 4 /d/general_text_document 6 /d/math_text_document --split 95,5,0 \\
  --seq-length 8192 --micro-batch-size 1 --global-batch-size 1024 --lr 1e-4 --min-lr 1e-5 \\
  --lr-decay-style cosine --train-iters 25000 --bf16 --save-interval 500"""
"""As in Megatron-LM's example scripts, and in the test's own order."""


def changed(change: str) -> str:
    """The command line with a flag replaced or added."""
    flag = change.split()[0]
    words = [part for part in LLAMA3.replace("\\\n", "").split("--") if part.strip()]
    kept = [part for part in words if f"--{part.split()[0]}" != flag]
    return " ".join(f"--{part.strip()}" for part in kept) + " " + change


def test_a_command_line_becomes_a_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = changed("--tensor-model-parallel-size 2 --sequence-parallel --overlap-grad-reduce "
                   "--overlap-param-gather --lr-warmup-iters 500")  # fmt: skip
    assert main(["train", "--megatron-flags", line]) == 0
    text = capsys.readouterr().out
    raw = load_yaml(text, "printed")
    assert raw["base"] == {"preset": "llama3-8b"}
    assert raw["model"] == {"vocab_padding_multiple": 256}  # 128 for each tensor rank
    assert raw["parallel"] == {"tensor": 2, "sequence": True}
    assert raw["train"]["adam_beta2"] == 0.999  # Megatron-LM's default, not ours
    assert raw["train"]["weight_decay"] == 0.01
    assert raw["train"]["warmup_share"] == 0.02
    assert raw["blend"]["tokens"] == 25_000 * 1024 * 8192
    assert raw["blend"]["mix"]["math"] == {"share": 6, "path": "/d/math_text_document"}
    (tmp_path / "road.yaml").write_text(text)
    road = Road.load(tmp_path / "road.yaml")
    assert settings_of(road) == {**settings_of(road), **read_flags(line)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_shipped_road_to_flags_and_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRON_MATH_DATA", "/data")
    changes = ["base={preset: tiny}"] if "base: {run:" in path.read_text() else []
    settings = settings_of(Road.load(path, changes))
    if "blend.tokens" not in settings:  # epochs: the length is known when the data is
        batch = settings["train.global_batch_size"] * settings["blend.sequence_length"]
        settings["blend.tokens"] = 10_000 * batch
    words = write_flags(settings)
    if "--data-path" not in words:  # groups, quotas or several stages: the mix has no flag
        words += ["--data-path", "x"]
    again = read_flags(shlex.join(words))
    assert {name: again[name] for name in settings} == settings
    assert len(settings) > 40


@pytest.mark.parametrize(
    "change",
    [
        "--seed 1234",
        "--lr-decay-style WSD --lr-wsd-decay-style linear --lr-wsd-decay-iters 3750",
        "--lr-warmup-fraction 0.03",
        "--pipeline-model-parallel-size 4 --num-virtual-stages-per-pipeline-rank 2",
        "--pipeline-model-parallel-size 4 --num-layers-per-virtual-pipeline-stage 4",
        "--pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 7",
        "--recompute-activations",
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
        "--use-rope-scaling --rope-scaling-factor 32",
        "--window-size 4095,0",
        "--add-qkv-bias",
        "--transformer-impl local",
        "--make-vocab-size-divisible-by 64 --tensor-model-parallel-size 4",
        "--kv-channels 96",
        "--overlap-param-gather --overlap-grad-reduce",
        "--context-parallel-size 2 --mock-data",
        "--fp8-format hybrid --fp8-amax-history-len 1024 --fp8-amax-compute-algo max",
        "--fp8-format hybrid --fp8-amax-history-len 1024",
        "--fp8-format hybrid --fp8-recipe tensorwise --fp8-param-gather --first-last-layers-bf16",
        "--fp8-format e4m3 --fp8-recipe blockwise",
        "--num-experts 8",
        "--num-experts 8 --moe-aux-loss-coeff 0.01 --expert-model-parallel-size 8",
        "--micro-batch-size 2 --num-experts 4 --moe-router-topk 1 --moe-aux-loss-coeff 0.02 "
        "--moe-router-load-balancing-type seq_aux_loss",
        "--num-experts 8 --tensor-model-parallel-size 2 --sequence-parallel "
        "--expert-model-parallel-size 4 --expert-tensor-parallel-size 1",
        "--num-experts 8 --moe-ffn-hidden-size 512 --moe-grouped-gemm --moe-permute-fusion "
        "--moe-token-dispatcher-type alltoall --moe-router-dtype fp32 --moe-layer-freq 1",
    ],
)
def test_flags_to_a_road_and_back(change: str, tmp_path: Path) -> None:
    """What comes back is the same flags, in the table's own order and spelling."""
    settings = read_flags(changed(change))
    (tmp_path / "road.yaml").write_text(as_road(settings))
    resolved = settings_of(Road.load(tmp_path / "road.yaml"))
    assert settings == {name: resolved[name] for name in settings}
    words = write_flags(resolved)
    assert write_flags(read_flags(shlex.join(words))) == words
    plain = write_flags(read_flags(LLAMA3))
    assert (words == plain) == (change == "--seed 1234")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("--numlayers 3", "--numlayers has no counterpart here.* the nearest is --num-layers"),
        ("--quux", "nothing near it"),
        ("--save /ckpt", r"--save has no counterpart: checkpoints go to runs/<name>"),
        ("--fp8-format e4m3", "--fp8-format e4m3 has no counterpart with delayed; known: delayed"),
        ("--fp8-recipe tensorwise", "--fp8-recipe has no effect without --fp8-format"),
        ("--fp8-format hybrid --first-last-layers-bf16", "recipe delayed updates all scales"),
        ("--fp8-format hybrid --fp8-recipe mxfp8", "hybrid has no counterpart with mxfp8"),
        ("--moe-aux-loss-coeff 0.01", "--moe-aux-loss-coeff has no effect without --num-experts"),
        ("--num-experts 8 --tensor-model-parallel-size 2", "left out, which is 2, has no counter"),
        ("--num-experts 8 --expert-tensor-parallel-size 4", "experts are not cut; give 1"),
        (
            "--micro-batch-size 2 --num-experts 8 --moe-aux-loss-coeff 0.01",
            "aux_loss with --micro-batch-size 2 has no counterpart: each row is balanced by itself",
        ),
        (
            "--num-experts 8 --moe-router-load-balancing-type sinkhorn",
            "sinkhorn has no counterpart",
        ),
        (
            "--num-experts 8 --moe-router-load-balancing-type none --moe-aux-loss-coeff 0.01",
            "0.01 has no effect with --moe-router-load-balancing-type none",
        ),
        ("--num-experts 8 --moe-token-dispatcher-type allgather", "by all-to-all; give alltoall"),
        ("--num-experts 8 --moe-router-dtype fp64", "routers compute in fp32"),
        ("--num-experts 8 --moe-layer-freq 2", "every layer has experts"),
        ("--num-experts 8 --moe-shared-expert-intermediate-size 64", "no expert is shared"),
        ("--num-experts 8 --moe-expert-capacity-factor 1.0", "no token is dropped"),
        ("--num-experts 8 --moe-router-pre-softmax", "over the chosen experts' logits"),
        ("--normalization LayerNorm", "--normalization LayerNorm: here it is always RMSNorm"),
        ("--hidden-dropout 0.1", "here it is always 0.0"),
        ("--lr-decay-style linear", "--lr-decay-style linear has no counterpart"),
        ("--lr-decay-style WSD --lr-wsd-decay-iters 10", "which is exponential"),
        ("--lr-decay-iters 20000", "over the whole run here, and the flags say 0.8 of it"),
        ("--lr-wsd-decay-iters 10", "has no effect with --lr-decay-style cosine"),
        ("--overlap-grad-reduce", "give both"),
        ("--recompute-granularity full", "--recompute-method left out"),
        ("--num-query-groups 8 --num-query-groups 4", "is given twice"),
        ("--lr fast", "--lr takes a number, found fast"),
        ("--lr", "takes one value, found none"),
        ("--swiglu yes", "here it is always on"),
        ("--split 969,30,1", "no tests are held out"),
        ("--train-samples 7", "give one of --train-iters and --train-samples"),
        ("--window-size 10,10", "only LEFT,0 is causal"),
        ("--bf16 --fp16", "contradict each other"),
        ("--data-path 1 a 2", "pairs of weight and prefix"),
    ],
)
def test_what_is_refused(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_flags(changed(change))


@pytest.mark.parametrize("flag", [flag for flag, (_, needed) in ALWAYS.items() if needed])
def test_defaults_that_mean_another_model_are_asked_for(flag: str) -> None:
    words = LLAMA3.replace("\\\n", "").split("--")
    text = "--".join(word for word in words if word.split()[:1] != [flag])
    with pytest.raises(UserError, match=f"--{flag}.* is needed"):
        read_flags(text)


def test_the_latest_pass_alone_is_a_history_of_one() -> None:
    found = read_flags(changed("--fp8-format hybrid --fp8-amax-history-len 1024"))["precision.fp8"]
    assert (found["recipe"], found["amax_history"]) == ("delayed", 1)


MIXTRAL = (
    changed("--vocab-size 32000").replace("500000", "1000000").replace("8192 --unt", "32768 --unt")
    + " --num-experts 8 --expert-model-parallel-size 8"
)


def test_a_mixtral_becomes_a_road(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(as_road(read_flags(MIXTRAL)))
    raw = load_yaml(path.read_text(), "written")
    assert raw["base"] == {"preset": "mixtral-8x7b"}
    assert raw["parallel"]["expert"] == 8
    assert raw["train"]["balance_coefficient"] == 0  # Megatron-LM's default, not ours
    ours = settings_of(Road.load(path, ["train.balance_coefficient=null"]))
    assert ours["train.balance_coefficient"] == 0.01
    words = write_flags(ours)
    assert words[words.index("--moe-aux-loss-coeff") + 1] == "0.01"
    assert words[words.index("--moe-router-load-balancing-type") + 1] == "seq_aux_loss"
    assert read_flags("--moe-aux-loss-coeff 0.02", ours) == {"train.balance_coefficient": 0.02}


def test_a_balance_of_no_experts_is_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(as_road(read_flags(LLAMA3)))
    settings = settings_of(Road.load(path, ["train.balance_coefficient=0.1"]))
    with pytest.raises(UserError, match="balance_coefficient 0.1: the model has no experts"):
        write_flags(settings)


@pytest.mark.parametrize("change", ["train.lora={rank: 4, alpha: 8}", "train.stages={}"])
def test_what_has_no_flag_is_not_left_out(change: str, tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(as_road(read_flags(LLAMA3)))
    assert main(["train", str(path), "--as-megatron-flags"]) == 0
    assert main(["train", str(path), change, "--as-megatron-flags"]) == 2


def test_over_a_road_only_what_is_given_counts(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text(as_road(read_flags(changed("--adam-beta2 0.95"))))
    beneath = settings_of(Road.load(path))
    change = read_flags("--lr 2e-5 --tensor-model-parallel-size 4 --lr-warmup-iters 250", beneath)
    assert change == {"train.lr": 2e-5, "parallel.tensor": 4, "train.warmup_share": 0.01}
    with pytest.raises(UserError, match=r"the flags set model\.num_layers; training takes"):
        read_flags("--num-layers 16", beneath)
    road = [str(path), "--dry-run", "--gpus", "8", "--json"]
    assert main(["train", *road, "--megatron-flags", "--tensor-model-parallel-size 3"]) == 2


def test_the_table_names_real_settings_once() -> None:
    sections: dict[str, type[Section]] = {**SECTIONS, "model": ModelConfig, "blend": BlendConfig}
    for setting in {row.setting for row in ROWS} | GROUP_SETTINGS:
        section, _, key = setting.rpartition(".")
        assert setting == "seed" or key in sections[section].model_fields, setting
    flags = known_flags()
    assert len(set(flags)) == len(flags)
    assert not set(flags) & set(REFUSED)
    names = [row.setting for row in ROWS]
    assert len(set(names)) == len(names)
    assert not set(names) & GROUP_SETTINGS
