"""Megatron-LM's training flags <-> settings of a road: one table, both ways.

`read_flags` turns a command line into dotted settings, `write_flags` settings into a command line.
A flag stands in exactly one place: `ROWS` (one flag, one setting), `GROUPS` (flags that only
together mean something), `ALWAYS` (what holds here in any case) or `REFUSED` (no counterpart, and
why); any other is refused with the nearest name. To add a flag, add its row. Defaults of flags that
are left out are Megatron-LM's, not ours (megatron/training/arguments.py, megatron-core 0.16).
"""

import difflib
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.megatron_flags.given import Given, Settings
from megatron_math.megatron_flags.groups import GROUPS, as_text


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
    "use-rotary-position-embeddings": "give --position-embedding-type rope",
    "overlap-p2p-communication": "set by the schedule that virtual stages take",
    "data-parallel-size": "it is what tensor, pipeline and context leave of the processes",
    "distributed-backend": "found from the machine",
    "moe-router-pre-softmax": "the softmax is over the chosen experts' logits",
    "moe-router-topk-scaling-factor": "the weights of the chosen experts add up to 1",
    "moe-router-enable-expert-bias": "train.balance_coefficient keeps experts busy",
    "moe-shared-expert-intermediate-size": "no expert is shared",
    "moe-expert-capacity-factor": "no token is dropped",
    "moe-pad-expert-input-to-capacity": "no token is dropped, and none is padded",
    "moe-z-loss-coeff": "the balance loss is the only one of a router",
    "moe-input-jitter-eps": "routers see their input as it is",
}


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
            words += [f"--{row.flag}", texts.get(value, as_text(value))]
    for group in GROUPS:
        words += group.write(settings)
    for flag, (value, _) in ALWAYS.items():
        if flag not in ("use-flash-attn", "no-gradient-accumulation-fusion"):  # of the machine
            words += [f"--{flag}", value] if value else [f"--{flag}"]
    return words
