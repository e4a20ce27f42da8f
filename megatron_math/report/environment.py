"""Jinja as every page uses it: numbers only through `figures`, style and script inline."""

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from megatron_math.report import words
from megatron_math.report.contamination import set_of
from megatron_math.report.figures import KINDS, figure

HERE = Path(__file__).parent


def render(template: str, facts: dict[str, Any], **more: Any) -> str:
    """A page of this folder filled with facts; `more` are drawings and functions of that page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for kind in KINDS:
        environment.filters[kind] = lambda value, kind=kind: figure(value, kind)
    environment.filters |= {"as_yaml": _as_yaml, "zip": zip, "bound": bound}
    environment.globals.update(
        group_name=words.group_name,
        stage_name=words.stage_name,
        spent_name=words.spent_name,
        base_name=words.base_name,
        kind_name=words.kind_name,
        headline=words.headline,
        set_of=set_of,
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        **more,
    )
    return environment.get_template(template).render(facts)


def bound(value: float | None, kind: str) -> Markup:
    """An edge of an interval, which may have none."""
    return Markup("none") if value is None else figure(value, kind)


def _as_yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=96)).rstrip()
