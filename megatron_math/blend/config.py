"""The blend language: stages of mixes, nested shares, quotas. DESIGN section 6 of the house."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from megatron_math.base.config import Section
from megatron_math.base.errors import UserError

UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
Role = Literal["prompt", "solution", "tool_output", "other"]
Kind = Literal["share", "epochs", "tokens"]
SHORTHAND_STAGE = "train"


def parse_tokens(value: object) -> object:
    """'100B', '1.5M', '300k' or a whole number -> tokens. ValueError for anything else."""
    if isinstance(value, str):
        text = value.strip()
        unit = text[-1:] if text[-1:].isalpha() else ""
        try:
            tokens = Fraction(text.removesuffix(unit)) * UNITS[unit]
        except (ValueError, KeyError, ZeroDivisionError):
            tokens = Fraction(1, 2)
        if tokens.denominator == 1:
            return int(tokens)
        raise ValueError("tokens are a whole number, with k, M, B or T if wanted: 100B, 1.5M")
    return value


def parse_roles(value: object) -> object:
    """A single role is a list of one; 'all' stays."""
    return [value] if isinstance(value, str) and value != "all" else value


Tokens = Annotated[int, BeforeValidator(parse_tokens), Field(gt=0)]


class Part(Section):
    """An entry of a mix: a group (`share` and `of`) or a source (one of share, epochs, tokens)."""

    share: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    tokens: Tokens | None = None
    of: dict[str, "Part"] | None = None
    path: str | None = None  # index prefix; default: 30_index/<source>_text_document of this road
    source: str | None = None  # name in 30_index; default: the entry's own key
    pack: Literal["concat", "whole"] | None = None  # default concat
    align: Annotated[int, Field(ge=1)] | None = None  # default: the blend's
    loss: Annotated[Literal["all"] | list[Role], BeforeValidator(parse_roles)] | None = None
    attend: Literal["inside", "across"] | None = None  # default inside
    max_epochs: Annotated[int, Field(ge=1)] | None = None


class StageSection(Section):
    """One stage of training: a mix and, for shares, its budget."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    mix: dict[str, Part]
    tokens: Tokens | None = None
    sequence_length: Annotated[int, Field(ge=1)] | None = None
    data: Literal["carried", "fresh"] = "carried"  # fresh: sources begin again, in the same order


class BlendConfig(Section):
    """The road's `blend` section."""

    sequence_length: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] | None = None  # default: the road's
    align: Annotated[int, Field(ge=1)] = 1
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of documents held out
    continue_from: str | None = None  # a checkpoint whose data go on here, under another blend
    stages: list[StageSection] | None = None  # after that checkpoint, where one is continued
    tokens: Tokens | None = None  # with `mix`: shorthand for a single stage named 'train'
    mix: dict[str, Part] | None = None


@dataclass(frozen=True)
class Leaf:
    """A source of a stage, defaults filled in. `where` is its place in the YAML file."""

    name: str
    groups: tuple[str, ...]
    where: str
    kind: Kind
    amount: Fraction  # share within its mapping, epochs, or tokens
    path: str | None
    index_source: str
    pack: Literal["concat", "whole"]
    align: int
    loss: Literal["all"] | list[Role]
    attend: Literal["inside", "across"]
    max_epochs: int | None


@dataclass(frozen=True)
class Group:
    """A mapping of the mix; `share` is its own among its siblings (1 for the whole mix)."""

    share: Fraction
    parts: "tuple[Group | Leaf, ...]"

    def leaves(self) -> Iterator[Leaf]:
        for part in self.parts:
            if isinstance(part, Group):
                yield from part.leaves()
            else:
                yield part


@dataclass(frozen=True)
class BlendStage:
    """A stage as the room works with it. `tokens` is None where the quotas say how much."""

    name: str
    sequence_length: int
    tokens: int | None
    mix: Group
    is_fresh: bool = False


def resolve(config: BlendConfig, where: str = "blend") -> list[BlendStage]:
    """The stages, checked. Raises UserError naming the place for all that pydantic cannot see."""
    if (config.stages is None) == (config.mix is None):
        raise UserError(
            f"{where}: give either `stages` (a list) or `mix` with `tokens` (one stage), "
            f"found {'neither' if config.mix is None else 'both'}"
        )
    if config.mix is not None:
        sections = [StageSection(name=SHORTHAND_STAGE, mix=config.mix, tokens=config.tokens)]
    else:
        sections = config.stages or []
        if config.tokens is not None:
            raise UserError(f"{where}.tokens: has no effect beside `stages`; give it to a stage")
    if not sections:
        raise UserError(f"{where}.stages: at least one stage is needed, found an empty list")
    names = [section.name for section in sections]
    if len(set(names)) < len(names):
        raise UserError(f"{where}.stages: every stage needs its own name, found {names}")
    return [_stage(config, section, f"{where}.{section.name}") for section in sections]


def _stage(config: BlendConfig, section: StageSection, where: str) -> BlendStage:
    mix = _group(config, section.mix, Fraction(1), (), f"{where}.mix")
    leaves = list(mix.leaves())
    names = [leaf.name for leaf in leaves]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two sources are called '{name}'; give one another key")
    kind = leaves[0].kind
    if kind == "share" and section.tokens is None:
        raise UserError(f"{where}: a mix of shares needs a budget; give the stage `tokens`")
    if kind != "share" and section.tokens is not None:
        raise UserError(
            f"{where}.tokens: has no effect where the sources say {kind}; leave it out, the "
            f"budget follows from them (found {section.tokens})"
        )
    length = section.sequence_length or config.sequence_length
    for leaf in leaves:
        if length % leaf.align:
            raise UserError(
                f"{leaf.where}.align: {leaf.align} does not divide sequence_length {length}; "
                f"choose a divisor"
            )
    return BlendStage(section.name, length, section.tokens, mix, section.data == "fresh")


def _group(
    config: BlendConfig, mix: dict[str, Part], share: Fraction, groups: tuple[str, ...], where: str
) -> Group:
    if not mix:
        raise UserError(f"{where}: at least one source is needed, found an empty mapping")
    kinds = {name: _kind(part, f"{where}.{name}") for name, part in mix.items()}
    if len(set(kinds.values())) > 1:
        raise UserError(
            f"{where}: share, epochs and tokens are different things and cannot stand in one "
            f"mapping; found {', '.join(f'{n}: {k}' for n, k in kinds.items())}"
        )
    if groups and "share" not in kinds.values():
        raise UserError(
            f"{where}: inside a group only `share` can be given, since the group's own share "
            f"says how much; found {next(iter(kinds.values()))}"
        )
    parts = tuple(
        _part(config, name, part, kinds[name], groups, f"{where}.{name}")
        for name, part in mix.items()
    )
    return Group(share, parts)


def _kind(part: Part, where: str) -> Kind:
    found: list[Kind] = [kind for kind in get_args(Kind) if getattr(part, kind) is not None]
    if len(found) != 1:
        raise UserError(
            f"{where}: exactly one of share, epochs and tokens is needed, "
            f"found {' and '.join(found) or 'none'}"
        )
    return found[0]


def _part(
    config: BlendConfig, name: str, part: Part, kind: Kind, groups: tuple[str, ...], where: str
) -> Group | Leaf:
    amount = Fraction(str(getattr(part, kind)))
    if part.of is not None:
        beside = sorted(part.model_fields_set - {"share", "of"})
        if beside:
            raise UserError(
                f"{where}: a group has `share` and `of` only, found {', '.join(beside)}; "
                f"give these to its sources"
            )
        return _group(config, part.of, amount, (*groups, name), where)
    if part.max_epochs is not None and kind != "share":
        raise UserError(f"{where}.max_epochs: has no effect beside {kind}, which says how much")
    if part.path is not None and part.source is not None:
        raise UserError(f"{where}: `path` and `source` both name the index; give one of them")
    return Leaf(
        name=name,
        groups=groups,
        where=where,
        kind=kind,
        amount=amount,
        path=part.path,
        index_source=part.source or name,
        pack=part.pack or "concat",
        align=part.align or config.align,
        loss=part.loss or "all",
        attend=part.attend or "inside",
        max_epochs=part.max_epochs,
    )
