"""ModelConfig: the numbers that define a model, and their door to Hugging Face's config.json.

Torch-free. Reads and writes plain dictionaries; files are opened by the callers (`presets`, the
convert room). The families share one block: RMSNorm, rotary positions, grouped-query attention,
SwiGLU, and no biases except Qwen2's on query, key and value. Mixtral has several SwiGLU experts a
layer, of which a router chooses a few for each token (Jiang et al. 2024, section 2.1).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, create_model, model_validator

from megatron_math.base.config import Section, parse_section
from megatron_math.base.errors import UserError

Family = Literal["llama", "mistral", "mixtral", "qwen2"]

ARCHITECTURES: dict[str, Family] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
}
"""Hugging Face architecture name -> family. Everything else is refused by name."""

_REQUIRED_HF_KEYS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_sequence_length",
    "rms_norm_eps": "norm_eps",
}

# Settings of config.json that would change the computation and that the model does not implement:
# key -> the only values accepted. An absent key is fine.
_FIXED_HF_SETTINGS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1, 1.0, None),
    "use_sliding_window": (False, None),
    "attention_dropout": (0, 0.0, None),
    "router_jitter_noise": (0, 0.0, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
}


_WINDOWED: tuple[Family, ...] = ("mistral", "mixtral")


class RopeScaling(Section):
    """Llama-3's frequency scaling of rotary positions (Llama 3.1 model card; `llama3`)."""

    factor: float = Field(ge=1.0)
    """Low frequencies are divided by this."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """Wavelengths above original_max_sequence_length / low_freq_factor are scaled fully."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """Wavelengths below original_max_sequence_length / high_freq_factor are left alone."""
    original_max_sequence_length: int = Field(default=8192, gt=0)
    """Tokens; the length the model had been trained with before scaling."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_scaling.high_freq_factor {self.high_freq_factor} must be greater than "
                f"low_freq_factor {self.low_freq_factor}"
            )
        return self


class ModelConfig(Section):
    """One decoder-only model. Frozen; every derived size is a property."""

    family: Family = "llama"
    """Which Hugging Face architecture the exported folder names."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Transformer blocks."""
    num_attention_heads: int = Field(gt=0)
    """Query heads."""
    num_query_groups: int = Field(gt=0)
    """Key/value heads; default num_attention_heads (plain multi-head attention)."""
    head_dim: int = Field(gt=0)
    """Width of one head; default hidden_size / num_attention_heads."""
    ffn_hidden_size: int = Field(gt=0)
    """Width of the SwiGLU hidden layer (one of gate and up, not their sum); of one expert."""
    num_experts: int | None = Field(default=None, ge=2)
    """SwiGLU experts a layer; required for mixtral, and of no other family."""
    experts_per_token: int | None = Field(default=None, ge=1)
    """Experts that work on each token: those of the highest router logits, weighted by the softmax
    over these logits; required for mixtral, and of no other family."""
    vocab_size: int = Field(gt=0)
    """Rows of the embedding as published, without padding."""
    max_sequence_length: int = Field(gt=0)
    """Tokens; the longest sequence the model claims to handle."""
    rope_base: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies (`rope_theta`)."""
    rope_scaling: RopeScaling | None = None
    """Llama-3 scaling of the rotary frequencies, or none."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Epsilon inside RMSNorm."""
    tied_embeddings: bool = False
    """Whether the output layer is the embedding matrix."""
    qkv_bias: bool = False
    """Biases on query, key and value projections; default and required: true for qwen2 only."""
    sliding_window: int | None = Field(default=None, gt=0)
    """A token sees itself and the sliding_window - 1 tokens before it (mistral and mixtral); or
    all."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of fresh weights."""
    vocab_padding_multiple: int = Field(default=128, gt=0)
    """The embedding gets rows up to a multiple of this, so that tensor parallelism divides it."""

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        heads, hidden = filled.get("num_attention_heads"), filled.get("hidden_size")
        if filled.get("num_query_groups") is None and heads is not None:
            filled["num_query_groups"] = heads
        if filled.get("head_dim") is None and isinstance(heads, int) and isinstance(hidden, int):
            if heads <= 0 or hidden % heads:
                raise ValueError(
                    f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}: "
                    "change one of them or set head_dim"
                )
            filled["head_dim"] = hidden // heads
        if filled.get("qkv_bias") is None:
            filled["qkv_bias"] = filled.get("family") == "qwen2"
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_attention_heads % self.num_query_groups:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_query_groups {self.num_query_groups}: every group serves equally many heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim {self.head_dim} is odd: rotary positions turn pairs of values; "
                "choose hidden_size and num_attention_heads with an even quotient"
            )
        if self.qkv_bias != (self.family == "qwen2"):
            raise ValueError(
                f"qkv_bias {self.qkv_bias} does not fit family {self.family}: "
                "qwen2 has biases on query, key and value, the other families have none"
            )
        if self.sliding_window is not None and self.family not in _WINDOWED:
            raise ValueError(
                f"sliding_window {self.sliding_window} does not fit family {self.family}: "
                f"only {' and '.join(_WINDOWED)} have one"
            )
        self._check_experts()
        return self

    def _check_experts(self) -> None:
        experts, chosen = self.num_experts, self.experts_per_token
        if self.family != "mixtral":
            if experts is not None or chosen is not None:
                raise ValueError(
                    f"num_experts {experts} and experts_per_token {chosen} do not fit family "
                    f"{self.family}: only mixtral has experts"
                )
        elif experts is None or chosen is None or chosen > experts:
            raise ValueError(
                f"num_experts {experts} and experts_per_token {chosen}: family mixtral needs both, "
                "and not more experts for a token than there are"
            )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in training: vocab_size rounded up to vocab_padding_multiple."""
        multiple = self.vocab_padding_multiple
        return -(-self.vocab_size // multiple) * multiple

    @property
    def architecture(self) -> str:
        """Hugging Face's name of this family's causal language model."""
        return next(name for name, family in ARCHITECTURES.items() if family == self.family)

    def num_parameters(self) -> int:
        """Trainable parameters, without vocabulary padding: the published count."""
        return self._count_parameters(self.num_experts or 1)

    def num_active_parameters(self) -> int:
        """Parameters that work on one token: all but those of the experts not chosen for it."""
        return self._count_parameters(self.experts_per_token or 1)

    def _count_parameters(self, num_mlps: int) -> int:
        query = self.num_attention_heads * self.head_dim
        key_value = 2 * self.num_query_groups * self.head_dim
        attention = self.hidden_size * (query + key_value) + query * self.hidden_size
        bias = query + key_value if self.qkv_bias else 0
        mlp = num_mlps * 3 * self.hidden_size * self.ffn_hidden_size
        mlp += self.hidden_size * (self.num_experts or 0)  # the router
        norms = 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * (attention + bias + mlp + norms) + self.hidden_size + embeddings

    def flops_per_token(self, sequence_length: int) -> float:
        """Training FLOPs a token, causal attention counted half: see `model/flops.py`."""
        from megatron_math.model.flops import training_flops_per_token

        return training_flops_per_token(self, sequence_length)

    @classmethod
    def from_hf(cls, hf: dict[str, Any]) -> ModelConfig:
        """Read the contents of a config.json written by transformers 4 or 5.

        Raises UserError for another architecture, for a missing size, and for every setting that
        would change the computation in a way the model does not implement, naming it.
        """
        family = _family_of(hf)
        missing = [key for key in _REQUIRED_HF_KEYS if hf.get(key) is None]
        if missing:
            raise UserError(
                f"config.json of {hf['architectures'][0]} lacks {', '.join(missing)}: "
                "use a complete Hugging Face folder"
            )
        _refuse_unsupported(hf, family)
        # What transformers takes for a key that is not there differs between families.
        rope_base, rope_scaling = _rope_from_hf(hf, 1e6 if family == "mixtral" else 10000.0)
        absent_window = 4096 if family == "mistral" else None
        window = hf.get("sliding_window", absent_window) if family in _WINDOWED else None
        if family == "mixtral":
            experts = hf.get("num_local_experts", 8), hf.get("num_experts_per_tok", 2)
        else:
            experts = None, None
        fields = {
            **{ours: hf[theirs] for theirs, ours in _REQUIRED_HF_KEYS.items()},
            "family": family,
            "num_query_groups": hf.get("num_key_value_heads"),
            "head_dim": hf.get("head_dim"),
            "num_experts": experts[0],
            "experts_per_token": experts[1],
            "rope_base": rope_base,
            "rope_scaling": rope_scaling,
            "tied_embeddings": bool(hf.get("tie_word_embeddings", False)),
            "sliding_window": window,
            "init_std": hf.get("initializer_range") or 0.02,
        }
        return parse_section(cls, fields, "config.json")

    def to_hf(self) -> dict[str, Any]:
        """The contents of a config.json that transformers 4 and 5 both read.

        Special token ids and dtype belong to tokenizer and weights; the export adds them.
        """
        config: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.family,
            **{theirs: getattr(self, ours) for theirs, ours in _REQUIRED_HF_KEYS.items()},
            "num_key_value_heads": self.num_query_groups,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied_embeddings,
            "initializer_range": self.init_std,
            "attention_dropout": 0.0,
            "use_cache": True,
            **self._rope_to_hf(),
        }
        if self.family == "llama":
            config |= {"attention_bias": False, "mlp_bias": False}
        elif self.family in _WINDOWED:
            config["sliding_window"] = self.sliding_window
        if self.family == "mixtral":
            config["num_local_experts"] = self.num_experts
            config["num_experts_per_tok"] = self.experts_per_token
        if self.family == "qwen2":
            config["use_sliding_window"] = False
        return config

    def _rope_to_hf(self) -> dict[str, Any]:
        scaling: dict[str, Any] | None = None
        if self.rope_scaling is not None:
            scaling = {
                "rope_type": "llama3",
                "factor": self.rope_scaling.factor,
                "low_freq_factor": self.rope_scaling.low_freq_factor,
                "high_freq_factor": self.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": self.rope_scaling.original_max_sequence_length,
            }
        # transformers 4 reads the first two keys, transformers 5 the third.
        return {
            "rope_theta": self.rope_base,
            "rope_scaling": scaling,
            "rope_parameters": {
                "rope_theta": self.rope_base,
                **(scaling or {"rope_type": "default"}),
            },
        }


def _family_of(hf: dict[str, Any]) -> Family:
    names = hf.get("architectures")
    if not names:
        raise UserError(
            "config.json names no architecture (key 'architectures'); supported: "
            + ", ".join(ARCHITECTURES)
        )
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise UserError(
            f"architecture {', '.join(map(str, names))} is not supported; supported: "
            + ", ".join(ARCHITECTURES)
        )
    return ARCHITECTURES[names[0]]


def _refuse_unsupported(hf: dict[str, Any], family: Family) -> None:
    faults = [
        f"{key} = {hf[key]!r} (supported: {accepted[0]!r})"
        for key, accepted in _FIXED_HF_SETTINGS.items()
        if key in hf and hf[key] not in accepted
    ]
    layer_types = hf.get("layer_types") or []
    expected = "sliding_attention" if family in _WINDOWED and hf.get("sliding_window") else ""
    odd = sorted({str(kind) for kind in layer_types} - {"full_attention", expected})
    if odd:
        faults.append(f"layer_types with {', '.join(odd)} (supported: full_attention)")
    if faults:
        raise UserError(
            f"{hf['architectures'][0]} with settings that the model does not implement: "
            + "; ".join(faults)
        )


def _rope_from_hf(hf: dict[str, Any], absent_base: float) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling from `rope_parameters` (transformers 5) or `rope_theta` and
    `rope_scaling` (transformers 4); both may be present if they agree."""
    new, old = hf.get("rope_parameters") or {}, hf.get("rope_scaling") or {}
    bases = [b for b in (new.get("rope_theta"), hf.get("rope_theta")) if b is not None]
    if len(set(bases)) > 1:
        raise UserError(
            f"config.json gives two rotary bases: rope_parameters {bases[0]}, "
            f"rope_theta {bases[1]}; keep one"
        )
    base = float(bases[0]) if bases else absent_base
    scalings = {
        key: _scaling_from_hf(value, hf) for key, value in (("new", new), ("old", old)) if value
    }
    if len(scalings) == 2 and scalings["new"] != scalings["old"]:
        raise UserError(
            f"config.json gives two rotary scalings: rope_parameters {new}, rope_scaling {old}; "
            "keep one"
        )
    return base, scalings.get("new", scalings.get("old"))


def _scaling_from_hf(rope: dict[str, Any], hf: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(
            f"partial_rotary_factor = {rope['partial_rotary_factor']} is not implemented: "
            "heads are rotated as a whole"
        )
    if kind == "default":
        return None
    if kind != "llama3":
        raise UserError(
            f"rotary scaling of type {kind!r} is not implemented; supported: default, llama3"
        )
    missing = [k for k in ("factor", "low_freq_factor", "high_freq_factor") if rope.get(k) is None]
    if missing:
        raise UserError(f"rotary scaling llama3 lacks {', '.join(missing)} in config.json")
    original = rope.get("original_max_position_embeddings", hf["max_position_embeddings"])
    return RopeScaling(
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_max_sequence_length=original,
    )


# Every field of ModelConfig, none required: what the road's `model` section may say about a base.
_OVERRIDES: dict[str, Any] = {
    name: (field.annotation | None, None)  # type: ignore[operator]
    for name, field in ModelConfig.model_fields.items()
}
ModelOverrides: type[Section] = create_model(
    "ModelOverrides", __base__=Section, preset=(str | None, None), **_OVERRIDES
)
"""The road's `model` section: a preset's name and any field of ModelConfig."""
