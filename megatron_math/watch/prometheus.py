"""A Prometheus endpoint: text format 0.0.4 over HTTP, from a thread of the process it tells of."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import TCPServer
from typing import Literal

from megatron_math.base.log import log

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_SECONDS = 5.0
"""A client that takes longer to ask or to read is left: there is one thread for all."""


@dataclass(frozen=True)
class Family:
    """A metric: values by their labels. A value of None is left out."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    values: Sequence[tuple[Mapping[str, str], float | None]]


def render(families: Sequence[Family]) -> str:
    """Text format 0.0.4; a family without values is left out."""
    lines = []
    for family in families:
        values = [(labels, value) for labels, value in family.values if value is not None]
        if not values:
            continue
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for labels, value in values:
            each = ",".join(f'{key}="{_escaped(text, quote=True)}"' for key, text in labels.items())
            lines.append(f"{family.name}{{{each}}} {_number(value)}")
    return "\n".join(lines) + "\n" if lines else ""


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    """Every digit that the value has; NaN, +Inf and -Inf as Prometheus writes them."""
    text = repr(float(value))
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text.removesuffix(".0"))


class Endpoint:
    """Listens from the start on; `port` is None where that was not possible, which is logged."""

    def __init__(self, address: str, port: int, families: Callable[[], Sequence[Family]]) -> None:
        self.port: int | None = None
        self._server: HTTPServer | None = None
        try:
            self._server = _Server((address, port), _handler(families))
        except (OSError, OverflowError) as error:
            log.warning("no Prometheus endpoint on %s:%d (%s); the run goes on without",
                        address, port, error)  # fmt: skip
            return
        self.port = self._server.server_address[1]
        # Not a warning, but the last rank's log shows nothing less.
        log.warning("Prometheus endpoint: http://%s:%d/metrics", address, self.port)
        threading.Thread(
            target=self._server.serve_forever, name="prometheus", kwargs={"poll_interval": 0.2},
            daemon=True,
        ).start()  # fmt: skip

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(HTTPServer):
    allow_reuse_port = False  # a port in use must be an error, whatever Python's version thinks

    def server_bind(self) -> None:
        """Without HTTPServer's look for this machine's name, which may ask a slow resolver."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nobody's concern."""


def _handler(families: Callable[[], Sequence[Family]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS
        server_version, sys_version = "megatron-math", ""

        def do_GET(self) -> None:
            if self.path.split("?")[0] not in ("/metrics", "/"):
                self.send_error(404)
                return
            content = render(families()).encode()
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """A scrape is no news."""

    return Handler
