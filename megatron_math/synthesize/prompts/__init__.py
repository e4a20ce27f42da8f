"""The prompts of the methods: <method>.<part>.<language>.md beside this file, as jinja2 templates.

What is put into a prompt is data: braces in a seed's text are never read as a template.
"""

import hashlib
from pathlib import Path

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from megatron_math.base.errors import UserError

LANGUAGES = ("en", "zh")
OWN = Path(__file__).parent


class Prompts:
    """The prompts of one language. own: a folder whose files take the place of the program's."""

    def __init__(self, language: str, own: Path | None = None) -> None:
        self.language = language
        self._folders = [folder for folder in (own, OWN) if folder is not None]
        self._environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        self._templates: dict[str, tuple[jinja2.Template, str]] = {}
        if own is not None:
            self._refuse_strangers(own)

    def render(self, name: str, **values: object) -> str:
        """The prompt `name`, such as expansion.ask. Raises UserError for a template that fails."""
        template, _ = self._load(name)
        try:
            return template.render(**values).strip()
        except jinja2.TemplateError as error:
            raise UserError(
                f"the prompt {name}.{self.language}.md cannot be filled: {error}; it may use "
                f"{', '.join(sorted(values))}"
            ) from None

    def sha256(self, name: str) -> str:
        """Digest of the prompt's file, for records."""
        return self._load(name)[1]

    def _load(self, name: str) -> tuple[jinja2.Template, str]:
        if name not in self._templates:
            file = f"{name}.{self.language}.md"
            path = next(folder / file for folder in self._folders if (folder / file).is_file())
            text = path.read_text(encoding="utf-8")
            try:
                template = self._environment.from_string(text)
            except jinja2.TemplateError as error:
                raise UserError(f"{path} is no jinja2 template: {error}") from None
            self._templates[name] = template, hashlib.sha256(text.encode("utf-8")).hexdigest()
        return self._templates[name]

    def _refuse_strangers(self, own: Path) -> None:
        if not own.is_dir():
            raise UserError(f"synthesize.prompts: the folder {own} does not exist")
        known = {path.name for path in OWN.glob("*.md")}
        if strangers := sorted({path.name for path in own.glob("*.md")} - known):
            raise UserError(
                f"synthesize.prompts: {own} holds {', '.join(strangers)}, which no method asks "
                f"with; the names are {', '.join(sorted(known))}"
            )
