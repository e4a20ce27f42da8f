"""A strict reader of Prometheus' text format 0.0.4: what it does not know is an error."""

import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL})(?:,{LABEL})*)?\}})? (\S+)")
VALUE = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|NaN|[+-]Inf")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> tuple[Samples, dict[str, str]]:
    """(value by name and labels, kind by name). AssertionError at anything unusual."""
    assert text.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    helps: set[str] = set()
    current = None
    for line in text.split("\n")[:-1]:
        if comment := re.fullmatch(rf"# (HELP|TYPE) ({NAME}) (.+)", line):
            what, current, told = comment.groups()
            if what == "HELP":
                assert current not in helps, f"two helps: {line}"
                assert not re.search(r"\\[^\\n]", told.replace("\\\\", "")), line
                helps.add(current)
            else:
                assert told in ("gauge", "counter"), line
                assert current not in kinds, f"two types: {line}"
                kinds[current] = told
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"not a sample: {line!r}"
        name, labels, value = match.groups()
        assert name == current, f"{name} stands among {current}"
        assert name in kinds
        assert VALUE.fullmatch(value), line
        if kinds[name] == "counter":
            assert name.endswith("_total"), line
            assert float(value) >= 0
        pairs = re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', labels or "")
        read = [(key, _plain(told)) for key, told in pairs]
        assert len({key for key, _ in read}) == len(read), f"a label twice: {line}"
        key = (name, frozenset(read))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(value)
    return samples, kinds


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]
