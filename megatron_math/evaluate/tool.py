"""Answers with programs: what the model writes in a fence is run, and it goes on behind the output.

A round is one call of the model and one run of the program that its text ends with. Each program is
a process of its own in the sandbox: nothing is left of the one before but what it printed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_math.engine.interface import Engine, Generation, Message, Request
from megatron_math.evaluate.ask import Reply, answers_in_order
from megatron_math.evaluate.exam import OUTPUT, Exam, Question
from megatron_math.evaluate.programs import Program, Programs, Run

PROGRAM, END = "```python", "```"


@dataclass
class Transcript:
    """One sample of an answer as it grows. ended: why no further round follows, None until then."""

    question: Question
    sample: int
    text: str = ""
    said: list[Message] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    finish: str = "rounds"
    ended: bool = False

    def hear(self, generation: Generation | None) -> str | None:
        """Take what the model wrote; the program that is to be run now, if there is one."""
        written = "" if generation is None else generation.text
        program = None if "\\boxed{" in written else program_at_end(written)
        self.text += written
        self.said.append(Message("assistant", written))
        if program is None:
            self.finish = "failed" if generation is None else generation.finish
            self.ended = True
        return program

    def see(self, run: Run) -> None:
        """Put a program's output behind it."""
        shown = run.shown.rstrip("\n")
        block = f"{OUTPUT}\n{shown}\n{END}\n"
        self.text = f"{self.text.rstrip()}\n{block}"
        self.said.append(Message("user", block))
        self.runs.append(run.outcome)

    def placed(self, program: str) -> Program:
        """The program with its place."""
        return Program(self.question.row.id, self.sample, len(self.runs), program)

    def request(self, exam: Exam) -> Request:
        return exam.request(self.question, tuple(self.said), text=self.text, sample=self.sample)

    def reply(self) -> Reply:
        return Reply(self.text, self.finish, {"runs": self.runs})


def ask_with_tool(exam: Exam, engine: Engine, programs: Programs, asked: str) -> list[list[Reply]]:
    """The samples of every row, each with the outcomes of its programs.

    asked: a digest of all that decides the prompts.
    """
    questions = exam.questions()
    all_of = [[Transcript(q, sample) for sample in range(exam.samples)] for q in questions]
    going = [transcript for own in all_of for transcript in own]
    for _ in range(exam.tool.rounds):
        requests = [transcript.request(exam) for transcript in going]
        answers = answers_in_order(exam, engine, requests) if requests else []
        heard = [
            (transcript, transcript.hear(generations[0]))
            for transcript, generations in zip(going, answers, strict=True)
        ]
        to_run = [(transcript, program) for transcript, program in heard if program is not None]
        runs = programs.run_all(
            asked, [transcript.placed(program) for transcript, program in to_run]
        )
        for (transcript, _), run in zip(to_run, runs, strict=True):
            transcript.see(run)
        going = [transcript for transcript, _ in to_run]
    return [[transcript.reply() for transcript in own] for own in all_of]


def program_at_end(text: str) -> str | None:
    """The program in the fence that a text ends with."""
    _, mark, block = text.rstrip().rpartition(PROGRAM)
    head, line_end, program = block.partition("\n")
    if not mark or not line_end or head.strip() or not program.endswith(END):
        return None
    program = program[: -len(END)]
    return None if END in program else program


def count_runs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of samples with `runs` and `finish`: outcomes of all programs, of each answer's last one, and
    how many programs an answer had."""
    return {
        "runs": dict(Counter(outcome for row in rows for outcome in row["runs"]).most_common()),
        "last_run": dict(
            Counter(row["runs"][-1] if row["runs"] else "none" for row in rows).most_common()
        ),
        "out_of_rounds": sum(row["finish"] == "rounds" for row in rows),
        "programs": {str(n): c for n, c in sorted(Counter(len(r["runs"]) for r in rows).items())},
    }
