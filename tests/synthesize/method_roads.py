"""Roads for the methods against a server, and what their stages wrote."""

import json

import yaml

from megatron_math.base.records import read_records
from megatron_math.base.road import Road
from megatron_math.engine.interface import Request
from megatron_math.engine.kept import key_of

ENGINES = {
    "expansion": ("engine",),
    "diversification": ("engine",),
    "retrospective": ("engine",),
    "tutorship": ("teacher", "student"),
    "rejection": ("engine",),
}
EXTRA = {
    "expansion": {},
    "diversification": {},
    "retrospective": {},
    "tutorship": {"judged_correct": 0.3},
    "rejection": {"samples": 4},
}
HEAT = {"student": 0.7, "rejection": 0.7}


def engine_section(url, role, method):
    heat = HEAT.get(role, HEAT.get(method, 0.0))
    server = {"url": url, "model": role, "first_wait_s": 0.01, "concurrency": 8}
    return {"server": server, "temperature": heat, "max_new_tokens": 1000}


def write_road(folder, method, seeds, url, /, name="road", **more):
    """A road file for one method; `more` are keys of its section. Returns its path."""
    paths = {"path": str(seeds)}
    section: dict[str, object] = {"method": method, "seeds": paths, **EXTRA[method]}
    if url is not None:
        section |= {role: engine_section(url, role, method) for role in ENGINES[method]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "seed": 7, "synthesize": section | more}))
    return path


def load(path):
    return Road.load(path, runs=path.parent / "runs")


class Written:
    """The files of a stage."""

    def __init__(self, folder):
        self.folder = folder
        self.stats = json.loads((folder / "stats.json").read_text())
        self.records = list(read_records(folder / "problems.jsonl"))
        self.drops = self.rows("drops/problems.jsonl")
        self.disputed = self.rows("disputed.jsonl")

    def rows(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def answers(self, role):
        return self.rows(f"answers/{role}/answers.jsonl")

    def texts(self):
        """The bytes that must not depend on kills and shards."""
        names = ("problems.jsonl", "drops/problems.jsonl", "disputed.jsonl")
        return {name: (self.folder / name).read_bytes() for name in names}


def check_counts(written, num_seeds, models=None, api="chat"):
    """What stats.json says against what the files hold, counted here."""
    stats, drops = written.stats, written.drops
    reasons = {}
    for drop in drops:
        reasons[drop["reason"]] = reasons.get(drop["reason"], 0) + 1
    assert stats["rejects"] == reasons
    assert stats["seeds"] == num_seeds
    assert stats["problems"] == stats["accepted"] == len(written.records)
    assert stats["dropped"] == len(drops)
    from_candidates = [drop for drop in drops if "verdicts" in drop.get("meta", {})]
    assert stats["parsed"] == len(written.records) + len(from_candidates)
    assert stats["duplicates"] == reasons.get("duplicate", 0)
    refused = sum(n for reason, n in reasons.items() if reason.startswith("not accepted"))
    assert stats["verified"] == stats["parsed"] - refused
    assert stats["disputed"] == len(written.disputed)
    assert sum(stats["by_steps"].values()) == len(written.records)
    new_tokens = 0
    for role, cost in stats["cost"].items():
        rows = written.answers(role)
        assert cost["calls"] == sum(row["calls"] for row in rows)
        assert cost["prompt_tokens"] == sum(row["prompt_tokens"] for row in rows)
        assert cost["new_tokens"] == sum(row["new_tokens"] for row in rows)
        assert cost["answered"] == cost["requests"] == len({row["key"] for row in rows})
        new_tokens += cost["new_tokens"]
        model = (models or {}).get(role, role)
        server = {"api": api, "extra": {}, "model": model, "revision": "", "samples": "together"}
        for row in rows[:3]:
            request = row["request"] | {"stop": tuple(row["request"]["stop"])}
            assert key_of(Request(**request), {"server": server}) == row["key"]
    if written.records:
        assert stats["new_tokens_per_accepted"] == round(new_tokens / len(written.records), 1)
    ids = [record.id for record in written.records]
    assert len(set(ids)) == len(ids)
    for record in written.records:
        assert {"method", "seed_id", "language", "steps", "verdicts"} <= set(record.meta)
        assert record.meta["verdicts"]["parsed"] is True
