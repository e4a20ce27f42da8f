"""Keys and passwords: they come by the environment, and stay out of files and of what is printed.

A road file with one in it is refused, because its values go into manifests and checkpoints. What
goes to standard error, tracebacks of libraries included, has the values of the environment's
secrets and credentials in URLs replaced.
"""

import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO, cast

from megatron_math.base.errors import UserError

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_LEAST_LENGTH = 8
"""Of a secret: MAX_TOKEN=4096 is none."""
_IN_URL = re.compile(
    r"(?P<before>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://)(?P<user>[^\s/?#@\"']+)@"
    r"|(?P<name>[?&](?:[a-z_-]*key|[a-z_-]*token|password|secret|sig(?:nature)?)=)[^\s&#\"']+",
    re.IGNORECASE,
)


def secret_values(environment: Mapping[str, str]) -> dict[str, str]:
    """Value -> name of the variables that are named like secrets, without white space around it."""
    return {
        value.strip(): name
        for name, value in environment.items()
        if len(value.strip()) >= _LEAST_LENGTH and _SECRET_NAME.search(name)
    }


def masked(text: str) -> str:
    """`text` without secrets: the environment's by their names, credentials in URLs as stars."""
    for value, name in secret_values(os.environ).items():
        text = text.replace(value, f"<{name}>")
    return _IN_URL.sub(
        lambda found: f"{found['before']}***@" if found["before"] else f"{found['name']}***", text
    )


def refuse_secrets(raw: Any, where: str) -> None:
    """Raise UserError for a value of a parsed road file that is or holds a secret.

    Of a URL's user the name alone is none but in http: there it is a token.
    """
    known = secret_values(os.environ)
    for path, text in _texts(raw, ()):
        key = ".".join(path)
        held = next((name for value, name in known.items() if value in text), None)
        if held is not None:
            raise UserError(
                f"{where}: {key} holds the value of {held}, and what stands here is kept in "
                f"manifests and checkpoints; leave it out: it is read from the environment"
            )
        if any(_is_credential(found) for found in _IN_URL.finditer(text)):
            raise UserError(
                f"{where}: {key} is a URL with a password or key in it, and what stands here is "
                f"kept in manifests and checkpoints; give the URL without it, and the key by the "
                f"environment (such as OPENAI_API_KEY)"
            )


def _is_credential(found: re.Match[str]) -> bool:
    user = found["user"]
    return user is None or ":" in user or found["before"].lower().startswith("http")


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(str(key), path)
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _texts(item, (*path, str(number)))


class _Masking:
    """A text stream that masks what is written to it; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def keep_secrets() -> None:
    """For this process: standard error is masked, and a crash leaves no image of the memory.

    Such an image holds the whole environment. `ulimit -c` is obeyed again with
    MEGATRON_MATH_CORE_DUMPS=1.
    """
    if not isinstance(sys.stderr, _Masking):
        sys.stderr = cast(TextIO, _Masking(sys.stderr))
    if os.environ.get("MEGATRON_MATH_CORE_DUMPS") != "1":
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
