"""Megatron-LM's training flags <-> settings of a road: one table, both ways.

`read_flags` turns a command line into dotted settings, `write_flags` settings into a command line.
A flag stands in exactly one place: `ROWS` (one flag, one setting), `GROUPS` (flags that only
together mean something), `ALWAYS` (what holds here in any case) or `REFUSED` (no counterpart, and
why); any other is refused with the nearest name. To add a flag, add its row. Defaults of flags that
are left out are Megatron-LM's, not ours (megatron/training/arguments.py, megatron-core 0.16).
"""

import difflib
import json
import shlex
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any

import yaml

from megatron_math.base.config import Section, load_yaml, parse_section
from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.blend.config import BlendConfig, Leaf, resolve
from megatron_math.convert.base_model import shape_of_base
from megatron_math.model.presets import PRESETS, load_preset
from megatron_math.train.config import (
    CheckpointConfig,
    ParallelConfig,
    PrecisionConfig,
    TrainConfig,
)

Settings = MutableMapping[str, Any]
"""Dotted name -> value, as in the road file."""


class _Needed:
    """In place of a default: Megatron-LM has none, or one that means nothing here."""


NEEDED = _Needed()


@dataclass(frozen=True)
class Row:
    """One flag, one setting. kind: int, float, str; a switch has none and means `present`."""

    flag: str
    setting: str
    absent: Any
    """The setting when the flag is left out; a function of the settings above; or NEEDED."""
    kind: Callable[[str], Any] | None = None
    present: Any = True
    choices: Mapping[str, Any] | None = None
    """What the flag's words mean, where they are not the setting's own."""


SECTIONS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "parallel": ParallelConfig,
    "precision": PrecisionConfig,
    "checkpoint": CheckpointConfig,
}


def _swiglu_width(settings: Settings) -> int:
    """Megatron-LM's width of a gated MLP when none is given: 2/3 of 4 x hidden, in 64s."""
    return int(4 * settings["model.hidden_size"] * 2 / 3 / 64) * 64


ROWS: tuple[Row, ...] = (
    Row("num-layers", "model.num_layers", NEEDED, int),
    Row("hidden-size", "model.hidden_size", NEEDED, int),
    Row("ffn-hidden-size", "model.ffn_hidden_size", _swiglu_width, int),
    Row("num-attention-heads", "model.num_attention_heads", NEEDED, int),
    Row("kv-channels", "model.head_dim",
        lambda s: s["model.hidden_size"] // s["model.num_attention_heads"], int),
    Row("vocab-size", "model.vocab_size", NEEDED, int),
    Row("max-position-embeddings", "model.max_sequence_length", NEEDED, int),
    Row("rotary-base", "model.rope_base", 10_000.0, float),
    Row("norm-epsilon", "model.norm_eps", 1e-5, float),
    Row("init-method-std", "model.init_std", 0.02, float),
    Row("untie-embeddings-and-output-weights", "model.tied_embeddings", True, present=False),
    Row("add-qkv-bias", "model.qkv_bias", False),
    Row("seed", "seed", 1234, int),
    Row("seq-length", "blend.sequence_length", NEEDED, int),
    Row("tensor-model-parallel-size", "parallel.tensor", 1, int),
    Row("pipeline-model-parallel-size", "parallel.pipeline", 1, int),
    Row("context-parallel-size", "parallel.context", 1, int),
    Row("expert-model-parallel-size", "parallel.expert", 1, int),
    Row("sequence-parallel", "parallel.sequence", False),
    Row("decoder-first-pipeline-num-layers", "parallel.first_stage_layers", None, int),
    Row("decoder-last-pipeline-num-layers", "parallel.last_stage_layers", None, int),
    Row("loss-scale", "precision.loss_scale", None, float),
    Row("transformer-impl", "precision.spec", "auto", str,
        choices={"local": "torch", "transformer_engine": "te"}),
    Row("micro-batch-size", "train.micro_batch_size", NEEDED, int),
    Row("global-batch-size", "train.global_batch_size", NEEDED, int),
    Row("lr", "train.lr", NEEDED, float),
    Row("min-lr", "train.min_lr", 0.0, float),
    Row("weight-decay", "train.weight_decay", 0.01, float),
    Row("adam-beta1", "train.adam_beta1", 0.9, float),
    Row("adam-beta2", "train.adam_beta2", 0.999, float),
    Row("adam-eps", "train.adam_eps", 1e-8, float),
    Row("clip-grad", "train.clip_grad", 1.0, float),
    Row("eval-interval", "train.validation_interval", 1000, int),
    Row("log-interval", "train.log_interval", 100, int),
    Row("save-interval", "checkpoint.interval", NEEDED, int),
)  # fmt: skip

ALWAYS: dict[str, tuple[str, str | None]] = {
    "swiglu": ("", "without it Megatron-LM's MLP is a GELU"),
    "normalization": ("RMSNorm", "without it Megatron-LM takes LayerNorm"),
    "position-embedding-type": ("rope", "without it Megatron-LM learns absolute positions"),
    "disable-bias-linear": ("", "without it Megatron-LM's matrices have biases"),
    "attention-dropout": ("0.0", "Megatron-LM's default is 0.1"),
    "hidden-dropout": ("0.0", "Megatron-LM's default is 0.1"),
    "reset-position-ids": ("", "without it positions run on over documents"),
    "reset-attention-mask": (
        "",
        "without it documents see each other, which here is `attend: across` of a source",
    ),
    "eod-mask-loss": ("", "without it the end of a document is scored on the next one's begin"),
    "use-distributed-optimizer": ("", None),
    "accumulate-allreduce-grads-in-fp32": ("", None),
    "attention-softmax-in-fp32": ("", None),
    "no-gradient-accumulation-fusion": ("", None),
    "use-mcore-models": ("", None),
    "use-flash-attn": ("", None),
}
"""Flag -> (its value, what it would be without the flag: then it must be given)."""

REFUSED: dict[str, str] = {
    "save": "checkpoints go to runs/<name>/50_train/checkpoints; --runs and `name` say where",
    "load": "a road continues its own run; weights to start from are named in `base`",
    "pretrained-checkpoint": "name the weights in `base`; convert reads Hugging Face folders",
    "finetune": "`base` starts with fresh optimizer state by itself; blend.continue_from keeps it",
    "use-checkpoint-args": "the model's shape is read from `base`",
    "tokenizer-type": "an index knows its tokenizer; index.tokenizer makes one",
    "tokenizer-model": "an index knows its tokenizer; index.tokenizer makes one",
    "data-cache-path": "the plan is a stage of the run, 40_blend",
    "eval-iters": "train.validation_samples counts held-out samples of every source",
    "exit-interval": "train.stop_after stops after that iteration, with a checkpoint",
    "exit-duration-in-mins": "the batch system's signal ends a run with a checkpoint; see slurm",
    "tensorboard-dir": "train.tensorboard writes into the run folder",
    "wandb-project": "write train.wandb: {project: ..., name: ..., mode: offline}",
    "log-throughput": "metrics.jsonl has tokens/s and TFLOP/s of every step",
    "rampup-batch-size": "the batch is of one size",
    "fp8-format": "fp8 is no setting of this table yet",
    "use-rotary-position-embeddings": "give --position-embedding-type rope",
    "overlap-p2p-communication": "set by the schedule that virtual stages take",
    "data-parallel-size": "it is what tensor, pipeline and context leave of the processes",
    "distributed-backend": "found from the machine",
    "moe-router-topk": "models of experts have no row yet",
    "num-experts": "models of experts have no row yet",
}


class Given:
    """The flags of a command line; what is taken is understood, what is left is not."""

    def __init__(self, text: str) -> None:
        self.flags: dict[str, list[str]] = {}
        words: list[str] = []
        try:
            parts = shlex.split(text.replace("\\\n", " "))
        except ValueError as error:
            raise UserError(f"--megatron-flags: {error}") from None
        for part in parts:
            if part.startswith("--"):
                name, equals, value = part[2:].replace("_", "-").partition("=")
                name, value = name, part[len(name) + 3 :] if equals else ""
                if name in self.flags:
                    raise UserError(f"--{name} is given twice; keep one")
                words = self.flags[name] = [value] if equals else []
            elif self.flags:
                words.append(part)
            else:
                raise UserError(f"--megatron-flags begins with '{part}'; flags begin with --")

    def has(self, flag: str) -> bool:
        return flag in self.flags

    def words(self, flag: str) -> list[str]:
        """Take a flag with any number of values; empty where it is left out."""
        return self.flags.pop(flag, [])

    def switch(self, flag: str) -> bool:
        words = self.flags.pop(flag, None)
        if words:
            raise UserError(f"--{flag} takes no value, found {' '.join(words)}")
        return words is not None

    def value(self, flag: str, kind: Callable[[str], Any] = str) -> Any:
        """Take a flag with one value; None where it is left out."""
        words = self.flags.pop(flag, None)
        if words is None:
            return None
        if len(words) != 1:
            raise UserError(f"--{flag} takes one value, found {' '.join(words) or 'none'}")
        try:
            return kind(words[0])
        except ValueError:
            raise UserError(f"--{flag} takes a number, found {words[0]}") from None


@dataclass(frozen=True)
class Group:
    """Flags that mean something only together. `read` and `write` are each other's inverse.

    read(given, settings, whole): whole is True when flags that are left out have Megatron-LM's
    defaults. write(settings): words of the command line; a setting that is not there is left out.
    """

    flags: tuple[str, ...]
    read: Callable[[Given, Settings, bool], None]
    write: Callable[[Settings], Iterable[str]]


def _read_dtype(given: Given, settings: Settings, whole: bool) -> None:
    bf16, fp16 = given.switch("bf16"), given.switch("fp16")
    if bf16 and fp16:
        raise UserError("--bf16 and --fp16 contradict each other; keep one")
    if whole or bf16 or fp16:
        settings["precision.dtype"] = "bf16" if bf16 else "fp16" if fp16 else "fp32"


def _write_dtype(settings: Settings) -> list[str]:
    dtype = settings.get("precision.dtype", "fp32")
    return [] if dtype == "fp32" else [f"--{dtype}"]


def _read_query_groups(given: Given, settings: Settings, whole: bool) -> None:
    grouped, groups = given.switch("group-query-attention"), given.value("num-query-groups", int)
    if groups is not None and not grouped:
        raise UserError("--num-query-groups has no effect without --group-query-attention")
    if whole or grouped:
        heads = settings.get("model.num_attention_heads")
        settings["model.num_query_groups"] = (groups or 1) if grouped else heads


def _write_query_groups(settings: Settings) -> list[str]:
    groups = settings.get("model.num_query_groups")
    if groups is None or groups == settings["model.num_attention_heads"]:
        return []
    return ["--group-query-attention", "--num-query-groups", str(groups)]


def _read_window(given: Given, settings: Settings, whole: bool) -> None:
    text = given.value("window-size")
    if text is not None:
        left, _, right = text.strip("()").partition(",")
        if not left.strip().isdigit() or right.strip() != "0":
            raise UserError(f"--window-size {text}: only LEFT,0 is causal")
        # Megatron-LM counts the tokens to the left; a window counts the token itself, too.
        settings["model.sliding_window"] = int(left) + 1
    elif whole:
        settings["model.sliding_window"] = None


def _write_window(settings: Settings) -> list[str]:
    window = settings.get("model.sliding_window")
    return [] if window is None else ["--window-size", f"{window - 1},0"]


ROPE_SCALING = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_sequence_length": 8192
}  # fmt: skip
"""Written into Megatron-LM, without a flag."""


def _read_rope(given: Given, settings: Settings, whole: bool) -> None:
    scaled, factor = given.switch("use-rope-scaling"), given.value("rope-scaling-factor", float)
    if factor is not None and not scaled:
        raise UserError("--rope-scaling-factor has no effect without --use-rope-scaling")
    if scaled:
        settings["model.rope_scaling"] = {"factor": factor or 8.0, **ROPE_SCALING}
    elif whole:
        settings["model.rope_scaling"] = None


def _write_rope(settings: Settings) -> list[str]:
    scaling = settings.get("model.rope_scaling")
    if scaling is None:
        return []
    if {**scaling, "factor": 0} != {"factor": 0, **ROPE_SCALING}:
        raise UserError(f"model.rope_scaling {scaling}: only its factor has a flag")
    return ["--use-rope-scaling", "--rope-scaling-factor", _text(scaling["factor"])]


def _read_padding(given: Given, settings: Settings, whole: bool) -> None:
    multiple = given.value("make-vocab-size-divisible-by", int)
    if whole or multiple is not None:
        # Megatron-LM's multiple is of the rows of one tensor rank.
        tensor = settings.get("parallel.tensor", 1)
        settings["model.vocab_padding_multiple"] = (multiple or 128) * tensor


def _write_padding(settings: Settings) -> list[str]:
    multiple = settings.get("model.vocab_padding_multiple")
    if multiple is None:
        return []
    rows, rest = divmod(multiple, settings["parallel.tensor"])
    if rest:
        raise UserError(
            f"model.vocab_padding_multiple {multiple} is no multiple of parallel.tensor "
            f"{settings['parallel.tensor']}, as --make-vocab-size-divisible-by has it"
        )
    return [] if rows == 128 else ["--make-vocab-size-divisible-by", str(rows)]


def _read_virtual(given: Given, settings: Settings, whole: bool) -> None:
    stages = given.value("num-virtual-stages-per-pipeline-rank", int)
    layers = given.value("num-layers-per-virtual-pipeline-stage", int)
    if stages is not None and layers is not None:
        raise UserError("two flags say how many virtual stages there are; keep one")
    if layers is not None:
        have = settings.get("model.num_layers")
        if have is None:
            raise UserError(
                "--num-layers-per-virtual-pipeline-stage needs --num-layers; give "
                "--num-virtual-stages-per-pipeline-rank"
            )
        stages, rest = divmod(have, layers * settings.get("parallel.pipeline", 1))
        if rest:
            raise UserError(
                f"--num-layers-per-virtual-pipeline-stage {layers} does not divide the {have} "
                f"layers over pipeline {settings.get('parallel.pipeline', 1)}"
            )
    if whole or stages is not None:
        settings["parallel.virtual"] = stages or 1


def _write_virtual(settings: Settings) -> list[str]:
    virtual = settings.get("parallel.virtual", 1)
    return [] if virtual == 1 else ["--num-virtual-stages-per-pipeline-rank", str(virtual)]


OVERLAP = ("overlap-grad-reduce", "overlap-param-gather")


def _read_overlap(given: Given, settings: Settings, whole: bool) -> None:
    found = [given.switch(flag) for flag in OVERLAP]
    if any(found) and not all(found):
        raise UserError(f"--{OVERLAP[0]} and --{OVERLAP[1]} are one setting here; give both")
    if whole or any(found):
        settings["parallel.overlap"] = all(found)


def _write_overlap(settings: Settings) -> list[str]:
    return [f"--{flag}" for flag in OVERLAP] if settings.get("parallel.overlap") else []


def _read_recompute(given: Given, settings: Settings, whole: bool) -> None:
    granularity = given.value("recompute-granularity")
    if given.switch("recompute-activations"):
        granularity = granularity or "selective"
    found = {
        "recompute-method": given.value("recompute-method"),
        "recompute-num-layers": given.value("recompute-num-layers"),
        "recompute-modules": " ".join(given.words("recompute-modules")) or None,
    }
    possible: dict[str | None, dict[str, tuple[str | None, ...]]] = {
        None: {},
        "selective": {"recompute-modules": (None, "core_attn")},
        "full": {"recompute-method": ("uniform",), "recompute-num-layers": ("1",)},
    }
    if granularity not in possible:
        raise UserError(f"--recompute-granularity {granularity}: full or selective")
    for flag, value in found.items():
        allowed = possible[granularity].get(flag, (None,))
        if value not in allowed:
            raise UserError(
                f"--{flag} {value or 'left out'} with --recompute-granularity {granularity}: "
                f"here it is {' or '.join(a or 'left out' for a in allowed)}"
            )
    if whole or granularity is not None:
        settings["parallel.recompute"] = granularity or "none"


def _write_recompute(settings: Settings) -> list[str]:
    mode = settings.get("parallel.recompute", "none")
    if mode == "none":
        return []
    words = ["--recompute-granularity", mode]
    more = ["--recompute-method", "uniform", "--recompute-num-layers", "1"]
    return words + more if mode == "full" else words


def _read_length(given: Given, settings: Settings, whole: bool) -> None:
    iterations, samples = given.value("train-iters", int), given.value("train-samples", int)
    if (iterations is None) == (samples is None):
        if iterations is None and not whole:
            return
        raise UserError("give one of --train-iters and --train-samples")
    if iterations is not None:
        samples = iterations * _batch(settings)
    length = settings.get("blend.sequence_length")
    if length is None:
        raise UserError("--train-iters and --train-samples need --seq-length beside them")
    settings["blend.tokens"] = samples * length


def _write_length(settings: Settings) -> list[str]:
    if settings.get("blend.tokens") is None:
        return []
    samples = _samples(settings)
    iterations, rest = divmod(samples, settings["train.global_batch_size"])
    return ["--train-samples", str(samples)] if rest else ["--train-iters", str(iterations)]


def _batch(settings: Settings) -> int:
    batch = settings.get("train.global_batch_size")
    if batch is None:
        raise UserError("a number of iterations needs --global-batch-size beside it")
    return int(batch)


def _samples(settings: Settings) -> int:
    """Of the whole run. UserError where a flag needs it and nothing says it."""
    tokens, length = settings.get("blend.tokens"), settings.get("blend.sequence_length")
    if tokens is None or length is None:
        raise UserError(
            "the schedule's flags count iterations or samples: the length of the run is needed "
            "(flags: --train-iters and --seq-length; road: blend with tokens and one length)"
        )
    return -(-int(tokens) // int(length))


def _share(given: Given, settings: Settings, name: str) -> float | None:
    """The share of the run that --NAME-iters or --NAME-samples say; None without them."""
    iterations, samples = given.value(f"{name}-iters", int), given.value(f"{name}-samples", int)
    if iterations is not None and samples is not None:
        raise UserError(f"--{name}-iters and --{name}-samples say the same; keep one")
    if iterations is not None:
        samples = iterations * _batch(settings)
    return None if samples is None else samples / _samples(settings)


def _read_warmup(given: Given, settings: Settings, whole: bool) -> None:
    share, counted = given.value("lr-warmup-fraction", float), _share(given, settings, "lr-warmup")
    if share is not None and counted is not None:
        raise UserError("two flags say how long the warm-up is; keep one")
    share = counted if share is None else share
    if whole or share is not None:
        settings["train.warmup_share"] = share or 0.0


def _write_warmup(settings: Settings) -> list[str]:
    share = settings.get("train.warmup_share", 0.0)
    return ["--lr-warmup-fraction", _text(share)] if share else []


SCHEDULES = {"constant": "constant", "cosine": "cosine", "WSD": "wsd"}


def _read_schedule(given: Given, settings: Settings, whole: bool) -> None:
    whole_run = _share(given, settings, "lr-decay")
    if whole_run is not None and whole_run != 1:
        raise UserError(
            f"the decay is over the whole run here, and the flags say {whole_run:.4g} of it"
        )
    decay, style = _share(given, settings, "lr-wsd-decay"), given.value("lr-wsd-decay-style")
    name = given.value("lr-decay-style")
    if name is None and not whole:
        if decay is not None or style is not None:
            raise UserError("--lr-wsd-decay-* has no effect without --lr-decay-style WSD")
        return
    if name not in SCHEDULES:
        raise UserError(
            f"--lr-decay-style {name or 'left out, which is linear,'} has no counterpart; give "
            f"one of {', '.join(SCHEDULES)}"
        )
    settings["train.schedule"] = SCHEDULES[name]
    if name != "WSD":
        if decay is not None or style is not None:
            raise UserError(f"--lr-wsd-decay-* has no effect with --lr-decay-style {name}")
        return
    if style != "linear":
        raise UserError(
            f"--lr-wsd-decay-style {style or 'left out, which is exponential,'} has no "
            "counterpart: the decay is linear here; give linear"
        )
    if decay is None:
        raise UserError("--lr-decay-style WSD needs --lr-wsd-decay-iters or -samples")
    settings["train.decay_share"] = decay


def _write_schedule(settings: Settings) -> list[str]:
    schedule = settings.get("train.schedule")
    if schedule is None:
        return []
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    if schedule not in names:
        raise UserError(f"train.schedule {schedule} has no flag in Megatron-LM")
    words = ["--lr-decay-style", names[schedule]]
    if schedule == "wsd":
        samples = round(settings["train.decay_share"] * _samples(settings))
        iterations, rest = divmod(samples, settings["train.global_batch_size"])
        by_samples = rest or _samples(settings) % settings["train.global_batch_size"]
        kind, count = ("samples", samples) if by_samples else ("iters", iterations)
        words += ["--lr-wsd-decay-style", "linear", f"--lr-wsd-decay-{kind}", str(count)]
    return words


def _read_split(given: Given, settings: Settings, whole: bool) -> None:
    text = given.value("split")
    if text is None:
        if whole:
            raise UserError(
                "--split is needed: Megatron-LM's default 969,30,1 holds out a third part for "
                "tests, which here nobody reads; give one as 970,30,0"
            )
        return
    try:
        parts = [Fraction(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) not in (2, 3) or sum(parts) <= 0 or any(parts[2:]):
        raise UserError(f"--split {text}: training, validation and 0, since no tests are held out")
    settings["blend.validation"] = float(parts[1] / sum(parts))


def _write_split(settings: Settings) -> list[str]:
    held_out = settings.get("blend.validation")
    if held_out is None:
        return []
    part = Fraction(str(held_out))
    return ["--split", f"{part.denominator - part.numerator},{part.numerator},0"]


def _read_data(given: Given, settings: Settings, whole: bool) -> None:
    is_mock = given.switch("mock-data")
    if whole or is_mock:
        settings["train.mock_data"] = is_mock
    words = given.words("data-path")
    if not words:
        if whole:
            raise UserError("--data-path is needed: it says which indexes to read")
        return
    if len(words) == 1:
        words = ["1", *words]
    if len(words) % 2:
        raise UserError(f"--data-path takes pairs of weight and prefix, found {len(words)} words")
    mix: dict[str, dict[str, Any]] = {}
    for weight, prefix in zip(words[::2], words[1::2], strict=True):
        name = PurePath(prefix).name.removesuffix("_text_document")
        if name in mix:
            raise UserError(f"--data-path has two indexes called {name}; rename one")
        try:
            share = float(weight)
        except ValueError:
            raise UserError(f"--data-path: '{weight}' stands where a weight is expected") from None
        mix[name] = {"share": int(share) if share.is_integer() else share, "path": prefix}
    settings["blend.mix"] = mix


def _write_data(settings: Settings) -> list[str]:
    words = ["--mock-data"] if settings.get("train.mock_data") else []
    if settings.get("blend.mix"):
        words.append("--data-path")
        for part in settings["blend.mix"].values():
            words += [_text(part["share"]), part["path"]]
    return words


GROUPS: tuple[Group, ...] = (
    Group(("group-query-attention", "num-query-groups"), _read_query_groups, _write_query_groups),
    Group(("window-size",), _read_window, _write_window),
    Group(("use-rope-scaling", "rope-scaling-factor"), _read_rope, _write_rope),
    Group(("make-vocab-size-divisible-by",), _read_padding, _write_padding),
    Group(("num-virtual-stages-per-pipeline-rank", "num-layers-per-virtual-pipeline-stage"),
          _read_virtual, _write_virtual),
    Group(OVERLAP, _read_overlap, _write_overlap),
    Group(("recompute-activations", "recompute-granularity", "recompute-method",
           "recompute-num-layers", "recompute-modules"), _read_recompute, _write_recompute),
    Group(("bf16", "fp16"), _read_dtype, _write_dtype),
    Group(("train-iters", "train-samples"), _read_length, _write_length),
    Group(("lr-warmup-fraction", "lr-warmup-iters", "lr-warmup-samples"),
          _read_warmup, _write_warmup),
    Group(("lr-decay-style", "lr-decay-iters", "lr-decay-samples", "lr-wsd-decay-style",
           "lr-wsd-decay-iters", "lr-wsd-decay-samples"), _read_schedule, _write_schedule),
    Group(("data-path", "mock-data"), _read_data, _write_data),
    Group(("split",), _read_split, _write_split),
)  # fmt: skip


def known_flags() -> list[str]:
    """Every flag that is translated."""
    return [row.flag for row in ROWS] + [f for group in GROUPS for f in group.flags] + [*ALWAYS]


def read_flags(text: str, beneath: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings that a command line means.

    beneath: the settings of a road that the flags change, in which only what is there counts.
    Without it the command line is whole: a flag that is left out has Megatron-LM's default. Raises
    UserError naming every flag that is not understood.
    """
    given, whole = Given(text), beneath is None
    _refuse(given)
    settings: ChainMap[str, Any] = ChainMap({}, dict(beneath or {}))
    for row in ROWS:
        _read_row(row, given, settings, whole)
    for group in GROUPS:
        group.read(given, settings, whole)
    for flag, (value, otherwise) in ALWAYS.items():
        if whole and otherwise is not None and not given.has(flag):
            wanted = f"--{flag} {value}".strip()
            raise UserError(f"{wanted} is needed: {otherwise}, and here it is always so")
        words = given.words(flag)
        if words and (len(words) > 1 or not _equal(words[0], value)):
            raise UserError(f"--{flag} {' '.join(words)}: here it is always {value or 'on'}")
    assert not given.flags, given.flags
    found = dict(settings.maps[0])
    settled = [name for name in found if name.startswith(("model.", "blend."))]
    if settled and not whole:
        raise UserError(
            f"the flags set {', '.join(settled)}; training takes the model from the road's base "
            "and the data from its plan, so leave them out, or change the road"
        )
    return found


def _equal(word: str, value: str) -> bool:
    try:
        return float(word) == float(value)
    except ValueError:
        return word == value


def _refuse(given: Given) -> None:
    known = known_flags()
    lines = []
    for flag in given.flags:
        if flag in known:
            continue
        if flag in REFUSED:
            lines.append(f"--{flag} has no counterpart: {REFUSED[flag]}")
            continue
        close = difflib.get_close_matches(flag, [*known, *REFUSED], n=1, cutoff=0.6)
        hint = f"the nearest is --{close[0]}" if close else "nothing near it is translated either"
        lines.append(f"--{flag} has no counterpart here, or is no flag of Megatron-LM; {hint}")
    if lines:
        raise UserError("\n".join(lines))


def _read_row(row: Row, given: Given, settings: Settings, whole: bool) -> None:
    if not given.has(row.flag):
        if not whole:
            return
        if row.absent is NEEDED:
            raise UserError(f"--{row.flag} is needed: it says {row.setting}")
        settings[row.setting] = row.absent(settings) if callable(row.absent) else row.absent
        return
    if row.kind is None:
        given.switch(row.flag)
        settings[row.setting] = row.present
        return
    value = given.value(row.flag, row.kind)
    if row.choices is not None:
        if value not in row.choices:
            raise UserError(f"--{row.flag} {value}: one of {', '.join(row.choices)}")
        value = row.choices[value]
    settings[row.setting] = value


def write_flags(settings: Settings) -> list[str]:
    """A command line for Megatron-LM that means these settings; what is not there is left out."""
    words: list[str] = []
    for row in ROWS:
        if row.setting not in settings:
            continue
        value = settings[row.setting]
        absent = row.absent(settings) if callable(row.absent) else row.absent
        if value == absent:
            continue
        if row.kind is None:
            words.append(f"--{row.flag}")
        else:
            texts = {ours: theirs for theirs, ours in (row.choices or {}).items()}
            words += [f"--{row.flag}", texts.get(value, _text(value))]
    for group in GROUPS:
        words += group.write(settings)
    for flag, (value, _) in ALWAYS.items():
        if flag not in ("use-flash-attn", "no-gradient-accumulation-fusion"):  # of the machine
            words += [f"--{flag}", value] if value else [f"--{flag}"]
    return words


def _text(value: Any) -> str:
    """As short as it reads back to the same number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def settings_of(road: Road) -> dict[str, Any]:
    """Settings of a road that the table knows, resolved: with defaults, tokens as whole samples.

    Length and mix are left out where the road has more than flags can say: stages of different
    lengths, groups, epochs.
    """
    settings: dict[str, Any] = {"seed": road.seed}
    sections = {name: road.section(name, model) for name, model in SECTIONS.items()}
    for name, section in sections.items():
        values = section.model_dump()
        settings |= {f"{name}.{key}": value for key, value in values.items()}
    settings |= {f"model.{key}": value for key, value in shape_of_base(road).model_dump().items()}
    if road.has("blend"):
        blend = road.section("blend", BlendConfig)
        stages = resolve(blend)
        settings["blend.validation"] = blend.validation
        lengths = {stage.sequence_length for stage in stages}
        if len(lengths) == 1:
            settings["blend.sequence_length"] = length = lengths.pop()
            if all(stage.tokens for stage in stages):
                samples = sum(-(-(stage.tokens or 0) // length) for stage in stages)
                settings["blend.tokens"] = samples * length
        parts = stages[0].mix.parts
        if len(stages) == 1 and all(_is_plain(part) for part in parts):
            settings["blend.mix"] = {
                part.name: {"share": _number(part.amount), "path": part.path}
                for part in parts
                if isinstance(part, Leaf)
            }
    if settings["train.schedule"] == "wsd":
        share = settings["train.decay_share"] or 0.15
        total = _samples(settings) if settings.get("blend.tokens") else None
        settings["train.decay_share"] = round(share * total) / total if total else share
    else:
        del settings["train.decay_share"]
    known = {row.setting for row in ROWS} | GROUP_SETTINGS
    return {name: value for name, value in settings.items() if name in known}


GROUP_SETTINGS = frozenset((
    "model.num_query_groups", "model.sliding_window", "model.rope_scaling",
    "model.vocab_padding_multiple", "parallel.virtual", "parallel.overlap", "parallel.recompute",
    "precision.dtype", "blend.tokens", "blend.mix", "blend.validation", "train.mock_data",
    "train.warmup_share", "train.schedule", "train.decay_share",
))  # fmt: skip
"""What the groups set."""


def _number(amount: Fraction) -> int | float:
    return int(amount) if amount.denominator == 1 else float(amount)


def _is_plain(part: Any) -> bool:
    """Whether --data-path says all of it."""
    plain = isinstance(part, Leaf) and part.kind == "share" and part.path is not None
    return plain and (part.pack, part.loss, part.attend, part.max_epochs) == (
        "concat", "all", "inside", None
    )  # fmt: skip


def as_road(settings: Mapping[str, Any], name: str = "megatron") -> str:
    """The road file that a whole command line means, without what is our default anyway."""
    raw: dict[str, Any] = {"name": name}
    base, model, remark = _base(settings)
    raw["base"] = base
    if model:
        raw["model"] = model
    defaults = {
        f"{section}.{field.alias or key}": field.default
        for section, config in SECTIONS.items()
        for key, field in config.model_fields.items()
    }
    for setting, value in settings.items():
        section, _, key = setting.rpartition(".")
        if section == "model" or (setting in defaults and defaults[setting] == value):
            continue
        if section:
            raw.setdefault(section, {})[key] = value
        else:
            raw[key] = value
    text = yaml.safe_dump(raw, sort_keys=False, default_flow_style=False)
    return f"# {remark}\n{text}"


def _base(settings: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], str]:
    """`base`, `model` and a remark: fresh weights of a preset, if one has these numbers."""
    model = {n.removeprefix("model."): v for n, v in settings.items() if n.startswith("model.")}
    free = ("vocab_padding_multiple", "init_std")
    hint = "name a folder in `base: {hf: ...}` to go on from published weights"
    for preset in PRESETS:
        published = load_preset(preset).model_dump()
        if all(published[key] == value for key, value in model.items() if key not in free):
            changed = {key: model[key] for key in free if model[key] != published[key]}
            return {"preset": preset}, changed, f"Fresh weights of {preset}; {hint}."
    family = "qwen2" if model["qkv_bias"] else "mistral" if model["sliding_window"] else "llama"
    return {"preset": "tiny"}, {"family": family, **model}, f"Fresh weights of this shape; {hint}."


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """The settings as dotted overrides of a road."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def check_road(text: str) -> None:
    """UserError where settings of the YAML that `as_road` writes contradict each other."""
    raw = load_yaml(text, "the flags' YAML")
    for name, section in SECTIONS.items():
        parse_section(section, raw.get(name), name)
    resolve(parse_section(BlendConfig, raw.get("blend"), "blend"))
