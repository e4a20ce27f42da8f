"""What the pickles of Megatron's format may ask for, and what they may do with it. No torch.

Whatever is not here is refused by name (`pickles`). A name gets in when a checkpoint of ours or of
a supported megatron-core needs it, and when what is done with it can run nothing.
"""

from dataclasses import dataclass
from typing import Any

Name = tuple[str, str]
"""Module and name of what a pickle asks for."""


@dataclass(frozen=True)
class Rule:
    """What a pickle may do with a name: nothing but what is said here."""

    call: tuple[Any, ...] | None = None
    """Call it with arguments of these types, one each; or any number of one, with `...`."""
    makes_empty: bool = False
    """Make an instance without arguments and without its __init__."""
    state: type | None = None
    """Fill an instance from a dict (attribute names to values), or from a tuple."""
    is_constant: bool = False
    """It is a value."""
    kind: Any = tuple
    """What the stand-in of an instance is: a dict goes on being filled."""
    holds_storage: bool = False
    """The argument is itself what torch.save wrote in its oldest form."""


class Made:
    """Mark of a stand-in for an instance or a tensor's data."""


class Constant:
    """Stand-in for a number type or the class of a tensor's data."""


_RECORD, _ENUM = Rule(makes_empty=True, state=dict), Rule(call=(int,))
_CONSTANT = Rule(is_constant=True)
_FORMAT, _RECIPES = "torch.distributed.checkpoint.", "transformer_engine.common.recipe"
_NUMBER_TYPES = (
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int16", "int8", "uint8", "bool",
)  # fmt: skip
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_TENSOR = (Made, int, tuple, tuple, bool, dict)

_VALUES: dict[Name, Rule] = {
    **{("torch", name): _CONSTANT for name in _NUMBER_TYPES},
    ("torch", "Size"): Rule(call=(tuple,)),
    ("torch.serialization", "_get_layout"): Rule(call=(str,)),
    ("collections", "OrderedDict"): Rule(call=(), kind=dict),
}

METADATA: dict[Name, Rule] = {
    **_VALUES,
    **{
        (_FORMAT + module, name): _RECORD
        for module, names in {
            "metadata": (
                "Metadata", "StorageMeta", "MetadataIndex", "ChunkStorageMetadata",
                "TensorStorageMetadata", "BytesStorageMetadata",
            ),
            "planner": ("SavePlan", "WriteItem", "TensorWriteData", "BytesIOWriteData"),
            "filesystem": ("_StorageInfo", "_StoragePrefix"),
        }.items()
        for name in names
    },
    (_FORMAT + "metadata", "TensorProperties"): Rule(makes_empty=True, state=tuple),
    (_FORMAT + "metadata", "_MEM_FORMAT_ENCODING"): _ENUM,
    (_FORMAT + "planner", "WriteItemType"): _ENUM,
    ("pathlib", "PosixPath"): Rule(call=(str, ...)),
    ("pathlib._local", "PosixPath"): Rule(call=(str, ...)),
}  # fmt: skip
"""Of `.metadata`: torch's list of tensors, and core's plans of the save."""

ARCHIVE: dict[Name, Rule] = {
    **_VALUES,
    **{("torch", f"{name}Storage"): _CONSTANT for name in _STORAGES},
    ("torch.storage", "UntypedStorage"): _CONSTANT,
    ("torch._utils", "_rebuild_tensor_v2"): Rule(call=_TENSOR),
    ("torch._utils", "_rebuild_tensor_v3"): Rule(call=(*_TENSOR, Constant)),  # of 8 bits
}
"""Of torch's archives: plain values and tensors. torch reads them with `weights_only` after that,
which knows more names; these are those that a checkpoint of ours needs."""

EXTRA_STATE: dict[Name, Rule] = {
    **ARCHIVE,
    ("torch.storage", "_load_from_bytes"): Rule(call=(bytes,), holds_storage=True),
    ("megatron.core.safe_globals", "safe_load_from_bytes"): Rule(call=(bytes,), holds_storage=True),
    **{
        (_RECIPES, name): _RECORD
        for name in (
            "DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling",
            "NVFP4BlockScaling", "MMParams", "QParams",
        )
    },
    ("megatron.core.extensions.transformer_engine", "TEDelayedScaling"): _RECORD,
    (_RECIPES, "Format"): Rule(call=(Made,)),
    (_RECIPES, "_FormatHelper"): Rule(call=(float, float)),
}  # fmt: skip
"""Of what Transformer Engine remembers of a layer's FP8, which it unpickles without any list."""
