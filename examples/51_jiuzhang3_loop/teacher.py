"""A teacher for miniatures that is a program: an OpenAI-compatible server on loopback.

python examples/51_jiuzhang3_loop/teacher.py --port 8123
"""

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHANGE = re.compile(r"(gets|loses) (\d+)|(\d+) (more|fewer)")
OWNERS = re.compile(r"(\w+) has (\d+) \w+ and (\w+) has (\d+) \w+\.")


def reply(prompt: str, seed: int | None = None, sample: int = 0) -> str:
    """A problem about what an excerpt tells, with its solution; code where asked.

    What changes in the text is asked for in the end, and of two owners the second one's number;
    of other texts it is the sum of the first two numbers.
    """
    kind, _, excerpt = prompt.partition(":")
    if steps := _steps(excerpt):
        told = " ".join(f"{step}." for step in steps)
        result = steps[-1].rpartition(" ")[2]
        return f"Problem: {excerpt.strip()} How many?\nSolution: {told} The answer is {result}."
    if owners := OWNERS.search(excerpt):
        name, number = owners[3], owners[4]
        return (
            f"Problem: {excerpt.strip()} How many has {name}?\n"
            f"Solution: {name} has {number}. The answer is {number}."
        )
    a, b = map(int, re.findall(r"\d+", excerpt)[:2])
    if kind == "code":
        return (
            f"Problem: Compute {a} times {b}.\nSolution: ```python\nprint({a} * {b})\n```\n"
            f"The answer is \\boxed{{{a * b}}}."
        )
    total = a + b
    return (
        f"Problem: {a} plus {b}, {kind}?\n"
        f"Solution: {a} + {b} = {total}\nThe answer is \\boxed{{{total}}}."
    )


def _steps(excerpt: str) -> list[str]:
    """Such as `3 + 4 = 7`, one for each change that the excerpt tells."""
    changes = list(CHANGE.finditer(excerpt))
    steps = []
    total = int(re.findall(r"\d+", excerpt)[0]) if changes else 0
    for change in changes:
        sign = "+" if (change[1] or change[4]) in ("gets", "more") else "-"
        amount = int(change[2] or change[3])
        result = total + amount if sign == "+" else total - amount
        steps.append(f"{total} {sign} {amount} = {result}")
        total = result
    return steps


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = reply(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": text}
        answer = json.dumps(
            {
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1},
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the client counts."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8123)
    ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler).serve_forever()
