"""The Dockerfile by rules, since no engine is here to build it; each rule finds its mistake."""

from pathlib import Path

import pytest
from dockerfile_rules import breaches

GOOD = """\
FROM ubuntu:24.04 AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc \\
    && rm -rf /var/lib/apt/lists/*
FROM ubuntu:24.04
COPY --from=build /opt /opt
USER trainer
WORKDIR /home/trainer
CMD ["true"]
"""
MISTAKES = {
    "DL3006": ("FROM ubuntu:24.04 AS", "FROM ubuntu AS"),
    "DL3007": ("ubuntu:24.04 AS", "ubuntu:latest AS"),
    "DL3024": ("FROM ubuntu:24.04\n", "FROM ubuntu:24.04 AS build\n"),
    "DL3022": ("--from=build", "--from=other"),
    "DL4006": ("RUN apt-get update", "RUN cat x | sh && apt-get update"),
    "DL3004": ("RUN apt-get update", "RUN sudo true && apt-get update"),
    "DL3003": ("RUN apt-get update", "RUN cd /opt && apt-get update"),
    "DL3027": ("RUN apt-get update", "RUN apt update"),
    "DL3005": ("RUN apt-get update", "RUN apt-get update && apt-get -y upgrade"),
    "DL3014": ("--yes ", ""),
    "DL3015": ("--no-install-recommends ", ""),
    "DL3009": ("rm -rf /var/lib/apt/lists/*", "true"),
    "DL3042": ("USER", "RUN pip install x==1\nUSER"),
    "DL3013": ("USER", "RUN pip install --no-cache-dir x\nUSER"),
    "DL4003": ("CMD", 'CMD ["false"]\nCMD'),
    "DL3025": ('["true"]', "true"),
    "DL3020": ("COPY --from=build", "ADD"),
    "DL4000": ("USER", "MAINTAINER me\nUSER"),
    "DL3000": ("WORKDIR /home", "WORKDIR home"),
    "a secret": ("USER", "ENV HF_TOKEN=x\nUSER"),
    "DL3002": ("USER trainer\n", ""),
}


def test_the_dockerfile_keeps_all_rules(repository: Path) -> None:
    assert breaches((repository / "Dockerfile").read_text(), repository) == []


def test_a_good_one_has_nothing() -> None:
    assert breaches(GOOD) == []


@pytest.mark.parametrize("rule", MISTAKES)
def test_each_rule_finds_its_mistake(rule: str) -> None:
    before, after = MISTAKES[rule]
    assert before in GOOD
    found = breaches(GOOD.replace(before, after))
    assert len(found) == 1, found
    assert found[0].startswith(rule)


def test_what_is_copied_is_there_and_not_ignored(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("*\n!src\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "data").mkdir()
    text = GOOD.replace("USER", "COPY src /src\nCOPY data /data\nCOPY none /none\nUSER")
    assert breaches(text, tmp_path) == [
        "data is kept out by .dockerignore",
        "none is not there",
        "none is kept out by .dockerignore",
    ]
