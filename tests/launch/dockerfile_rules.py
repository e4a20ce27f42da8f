"""Rules for Dockerfiles, after those of hadolint (the numbers are its names), and one of ours."""

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

_SECRET = r"(?i)(token|password|secret|api_?key|credential)"


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) with comments gone and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"\s*#", line)]
    joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0].upper(), line.split(None, 1)[1].strip()) for line in joined]


def breaches(text: str, folder: Path | None = None) -> list[str]:
    """Names of the rules that a Dockerfile breaks; `folder` is its build context."""
    return [
        name for rule in (_bases, _runs, _forms, _user) for name in rule(instructions(text))
    ] + ([] if folder is None else list(_context(instructions(text), folder)))


def _bases(steps: list[tuple[str, str]]) -> Iterator[str]:
    names: list[str] = []
    for kind, rest in steps:
        if kind == "FROM":
            image, *more = rest.split()
            if image not in names and ":" not in image:
                yield "DL3006 an image without a tag"
            if image.endswith(":latest"):
                yield "DL3007 the tag latest"
            if len(more) == 2:
                if more[1] in names:
                    yield "DL3024 two stages of one name"
                names.append(more[1])
        source = re.search(r"--from=(\S+)", rest) if kind == "COPY" else None
        if source and source[1] not in names:
            yield "DL3022 a copy from no stage before it"


def _runs(steps: list[tuple[str, str]]) -> Iterator[str]:
    pipefail = False
    for kind, rest in steps:
        pipefail = (pipefail or (kind == "SHELL" and "pipefail" in rest)) and kind != "FROM"
        if kind != "RUN":
            continue
        commands = [part.strip() for part in re.split(r"&&|;|\|\|", rest)]
        if "|" in re.sub(r"\|\||'[^']*'|\"[^\"]*\"", "", rest) and not pipefail:
            yield "DL4006 a pipe without pipefail"
        for command in commands:
            if re.match(r"sudo\b", command):
                yield "DL3004 sudo"
            if re.match(r"cd\b", command):
                yield "DL3003 cd, where WORKDIR is meant"
            if re.match(r"apt\b(?!-)", command):
                yield "DL3027 apt, where apt-get is meant"
            if re.match(r"apt-get\s.*\b(dist-)?upgrade\b", command):
                yield "DL3005 an upgrade"
            if re.match(r"apt-get\s.*\binstall\b", command):
                if not re.search(r"\s(-y|--yes|-qq)\b", command):
                    yield "DL3014 an install that asks"
                if "--no-install-recommends" not in command:
                    yield "DL3015 recommended packages"
                if "/var/lib/apt/lists" not in rest:
                    yield "DL3009 package lists left"
            if re.match(r"(python\d? -m )?pip\d?\s+install\b", command):
                if "--no-cache-dir" not in command:
                    yield "DL3042 pip's cache left"
                if not re.search(r"--constraint|-c\s|-r\s|==", command):
                    yield "DL3013 versions that float"


def _forms(steps: list[tuple[str, str]]) -> Iterator[str]:
    since = [kind for kind, _ in steps]
    last_stage = since[len(since) - since[::-1].index("FROM") :] if "FROM" in since else since
    for kind in ("CMD", "ENTRYPOINT"):
        if last_stage.count(kind) > 1:
            yield f"DL4003 two of {kind}"
    for kind, rest in steps:
        in_brackets = re.fullmatch(r'\[\s*"[^"]*"(\s*,\s*"[^"]*")*\s*\]', rest)
        if kind in ("CMD", "ENTRYPOINT") and not in_brackets:
            yield f"DL3025 {kind} as a shell line"
        if kind == "ADD":
            yield "DL3020 ADD, where COPY is meant"
        if kind == "MAINTAINER":
            yield "DL4000 MAINTAINER"
        if kind == "WORKDIR" and not rest.startswith(("/", "$", '"/')):
            yield "DL3000 a relative WORKDIR"
        if kind in ("ENV", "ARG") and re.search(_SECRET, rest):
            yield "a secret that stays in the image"


def _user(steps: list[tuple[str, str]]) -> Iterator[str]:
    user = "root"
    for kind, rest in steps:
        user = "root" if kind == "FROM" else rest if kind == "USER" else user
    if user.split(":")[0] in ("root", "0"):
        yield "DL3002 root at the end"


def _context(steps: list[tuple[str, str]], folder: Path) -> Iterator[str]:
    """Ours: what is copied is there, and .dockerignore lets it through."""
    ignored = (folder / ".dockerignore").read_text().splitlines()
    for kind, rest in steps:
        if kind != "COPY" or "--from=" in rest:
            continue
        for source in [word for word in rest.split() if not word.startswith("--")][:-1]:
            if not list(folder.glob(source)):
                yield f"{source} is not there"
            kept = True
            for line in ignored:
                pattern = line.strip().removeprefix("!").rstrip("/")
                if pattern and not line.startswith("#") and fnmatch.fnmatch(source, pattern):
                    kept = line.startswith("!")
            if not kept:
                yield f"{source} is kept out by .dockerignore"
