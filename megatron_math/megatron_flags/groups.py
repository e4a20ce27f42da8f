"""Flags that only together mean something: each group reads and writes its settings."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.megatron_flags import experts, fp8
from megatron_math.megatron_flags.given import Given, Settings


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
    return ["--use-rope-scaling", "--rope-scaling-factor", as_text(scaling["factor"])]


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
    samples = num_samples(settings)
    iterations, rest = divmod(samples, settings["train.global_batch_size"])
    return ["--train-samples", str(samples)] if rest else ["--train-iters", str(iterations)]


def _batch(settings: Settings) -> int:
    batch = settings.get("train.global_batch_size")
    if batch is None:
        raise UserError("a number of iterations needs --global-batch-size beside it")
    return int(batch)


def num_samples(settings: Settings) -> int:
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
    return None if samples is None else samples / num_samples(settings)


def _read_warmup(given: Given, settings: Settings, whole: bool) -> None:
    share, counted = given.value("lr-warmup-fraction", float), _share(given, settings, "lr-warmup")
    if share is not None and counted is not None:
        raise UserError("two flags say how long the warm-up is; keep one")
    share = counted if share is None else share
    if whole or share is not None:
        settings["train.warmup_share"] = share or 0.0


def _write_warmup(settings: Settings) -> list[str]:
    share = settings.get("train.warmup_share", 0.0)
    return ["--lr-warmup-fraction", as_text(share)] if share else []


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
        samples = round(settings["train.decay_share"] * num_samples(settings))
        iterations, rest = divmod(samples, settings["train.global_batch_size"])
        by_samples = rest or num_samples(settings) % settings["train.global_batch_size"]
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
            words += [as_text(part["share"]), part["path"]]
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
    Group(fp8.FLAGS, fp8.read_fp8, fp8.write_fp8),
    Group(experts.FLAGS, experts.read_experts, experts.write_experts),
    Group(("train-iters", "train-samples"), _read_length, _write_length),
    Group(("lr-warmup-fraction", "lr-warmup-iters", "lr-warmup-samples"),
          _read_warmup, _write_warmup),
    Group(("lr-decay-style", "lr-decay-iters", "lr-decay-samples", "lr-wsd-decay-style",
           "lr-wsd-decay-iters", "lr-wsd-decay-samples"), _read_schedule, _write_schedule),
    Group(("data-path", "mock-data"), _read_data, _write_data),
    Group(("split",), _read_split, _write_split),
)  # fmt: skip


def as_text(value: Any) -> str:
    """As short as it reads back to the same number."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


GROUP_SETTINGS = frozenset((
    "model.num_query_groups", "model.sliding_window", "model.rope_scaling",
    "model.vocab_padding_multiple", "parallel.virtual", "parallel.overlap", "parallel.recompute",
    "precision.dtype", "precision.fp8", "blend.tokens", "blend.mix", "blend.validation",
    "train.mock_data", "train.warmup_share", "train.schedule", "train.decay_share",
    *experts.SETTINGS,
))  # fmt: skip
"""What the groups set."""
