"""A study small enough to read, its sidecars, and processes that only pretend to run."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from megatron_math.study.campaign import Task

SEQUENCE = 256


def study_of(folder: Path, **changes: Any) -> Path:
    """study.yaml: two arms of one budget, one of which has problems."""
    index = f"{folder}/index"
    study: dict[str, Any] = {
        "name": "small",
        "seeds": [1, 2],
        "budget": {"tokens": 100_000, "available": {"mathematics": {"tokens": 14_700}}},
        "road": {
            "base": {"preset": "tiny"},
            "blend": {
                "sequence_length": SEQUENCE,
                "tokens": 100_000,
                "mix": {
                    "general": {"share": 4, "path": f"{index}/general_text_document"},
                    "mathematics": {
                        "share": 6,
                        "of": {
                            "text": {"share": 3, "path": f"{index}/half_text_document"},
                            "problems": {"share": 7, "path": f"{index}/problems_text_document"},
                        },
                    },
                },
            },
            "train": {"global_batch_size": 8, "lr": 1e-3},
            "evaluate": {"who": ["after"], "benchmarks": ["gsm8k"]},
        },
        "arms": {
            "plain": {
                "blend": {
                    "mix": {
                        "mathematics": {
                            "of": {
                                "text": {"path": f"{index}/whole_text_document"},
                                "problems": None,
                            }
                        }
                    }
                }
            },
            "mixed": {"description": "3 to 7"},
        },
        "compare": [{"arm": "mixed", "baseline": "plain"}],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes, sort_keys=False))
    return path


def write_sidecars(folder: Path, **tokens: int) -> None:
    """The sidecar, and nothing else, of every named index."""
    (folder / "index").mkdir(exist_ok=True)
    for name, number in tokens.items():
        path = folder / "index" / f"{name}_text_document.json"
        path.write_text(json.dumps({"tokens": number, "documents": number // 10}))


@dataclass
class FakeProcess:
    """Ends with `code` once it was asked `patience` times; a signal ends it with -n."""

    code: int = 0
    patience: int = 2
    pid: int = 1 << 22
    signals: list[int] = field(default_factory=list)

    def poll(self) -> int | None:
        if self.signals:
            return -self.signals[0]
        self.patience -= 1
        return None if self.patience > 0 else self.code

    def wait(self) -> int:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


@dataclass
class FakeRuns:
    """`start` and `is_done` for run_tasks: which keys fail, which are done, what was started."""

    codes: dict[str, int] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    most_at_once: int = 0
    running: list[FakeProcess] = field(default_factory=list)

    def start(self, task: Task, jobs: int) -> FakeProcess:
        self.running = [process for process in self.running if process.patience > 0]
        self.started.append(task.key)
        self.running.append(FakeProcess(self.codes.get(task.key, 0)))
        self.most_at_once = max(self.most_at_once, len(self.running))
        return self.running[-1]

    def is_done(self, task: Task) -> bool:
        return task.key in self.done
