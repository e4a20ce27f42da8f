"""Strict configuration: frozen typed sections, YAML in, dotted overrides, errors that name the key.

Each room owns its `Section`; this module only knows how to read one. A field that does not change
a result (worker counts, batch sizes of inference) carries `LOCATION` and stays out of fingerprints.
"""

import difflib
import os
import re
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_math.base.errors import UserError


class _Location:
    """Marks a field that says where or how fast, never what."""


LOCATION = _Location()
SectionType = TypeVar("SectionType", bound="Section")


class Section(BaseModel):
    """A part of the YAML file: immutable, strict about unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """The values that decide the result, as JSON types: everything but `LOCATION` fields."""
        return _identity(self)


def _identity(value: Any) -> Any:
    if isinstance(value, Section):
        return {
            name: _identity(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if LOCATION not in field.metadata
        }
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as a string and takes duplicate keys in silence; this does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise UserError(f"line {line}: the key '{key}' is given twice; keep one of them")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_yaml(text: str, where: str) -> Any:
    """Parse YAML; `where` (a file name) goes into the error."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from None


def expand_environment(value: Any, where: str) -> Any:
    """Replace `${NAME}` and `${NAME:-default}` in every string of a parsed YAML value."""

    def replace(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name in os.environ:
            return os.environ[name]
        if default is None:
            raise UserError(
                f"{where} uses ${{{name}}}, and no such environment variable is set; "
                f"export {name}=... or write ${{{name}:-default}}"
            )
        return default

    if isinstance(value, str):
        return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}", replace, value)
    if isinstance(value, dict):
        return {key: expand_environment(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_environment(item, where) for item in value]
    return value


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value` in a nested dict; the value is read as YAML."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise UserError(f"override '{override}' is not of the form section.key=value")
    *parents, last = path.split(".")
    for name in parents:
        child = tree.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"override '{override}': '{name}' is a value, not a section")
        tree = child
    tree[last] = load_yaml(text, f"override '{override}'")


def parse_section(model: type[SectionType], raw: Any, where: str) -> SectionType:
    """Validate `raw` as `model`; every fault becomes one line that names key, value and cure."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise UserError(f"{where}: a mapping of keys is expected here, found {raw!r}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(model, raw, fault, where) for fault in error.errors()]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def _explain(model: type[BaseModel], raw: Any, fault: Any, where: str) -> str:
    location = [str(part) for part in fault["loc"]]
    path = ".".join([where, *location])
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key '{location[-1]}'{_suggest(model, location)}"
    if fault["type"] == "missing":
        return f"{path}: this key is required and was not given"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{path}: {message} (found {fault['input']!r})"


def _suggest(model: type[BaseModel], location: list[str]) -> str:
    known = sorted(_fields_at(model, location[:-1]))
    if not known:
        return ""
    close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known keys: {', '.join(known)}"


def _fields_at(model: Any, location: list[str]) -> set[str]:
    """Names of the fields of the section(s) that stand at `location` below `model`."""
    names: set[str] = set()
    for candidate in _sections_in(model):
        if not location:
            names |= {f.alias or n for n, f in candidate.model_fields.items()}
            continue
        for name, field in candidate.model_fields.items():
            if location[0] == (field.alias or name):
                names |= _fields_at(field.annotation, location[1:])
    if not names and location:  # a mapping key, a list index or a union tag: step over it
        names = _fields_at(model, location[1:]) if not _is_section(model) else set()
    return names


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if _is_section(annotation):
        return [annotation]
    found = []
    for argument in getattr(annotation, "__args__", ()):
        found += _sections_in(argument)
    return found


def describe_section(model: type[Section], where: str) -> str:
    """Every key of a section, one a line: name, type, default, meaning. For --help."""
    lines = []
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"default {field.default!r}"
        if typing.get_origin(field.annotation) is typing.Literal:
            kind = " or ".join(map(str, typing.get_args(field.annotation)))
        else:
            annotation = getattr(field.annotation, "__name__", None) or str(field.annotation)
            kind = re.sub(r"(\w+\.)+(\w)", r"\2", annotation)
        meaning = " ".join((field.description or "").split())
        lines.append(f"{where}.{field.alias or name}  ({kind}, {default})  {meaning}".rstrip())
    return "\n\n".join(lines)
