"""A teacher for the miniature loop that is a program: an OpenAI-compatible server on loopback.

python examples/51_jiuzhang3_loop/teacher.py --port 8123
"""

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(prompt: str, seed: int | None = None, sample: int = 0) -> str:
    """A problem about the first two numbers of an excerpt, with its solution; code where asked."""
    kind, _, excerpt = prompt.partition(":")
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
