"""What the endpoint serves is text format 0.0.4, digit by digit; a port in use harms nobody."""

import logging
import math
import socket
import urllib.error
import urllib.request

import pytest
from scraped import parse, value

from megatron_math.watch.prometheus import CONTENT_TYPE, Endpoint, Family, render

FAMILIES = [
    Family("a_loss", "gauge", 'what "it" is\\\nreally', [({"run": 'x"y\\z\nw'}, 0.1 + 0.2)]),
    Family("b_total", "counter", "count", [({"run": "r", "k": "1"}, 3), ({"run": "r"}, None)]),
    Family("c", "gauge", "nothing is known", [({}, None)]),
    Family("d", "gauge", "no numbers", [({"n": n}, float(n)) for n in ("nan", "inf", "-inf")]),
    Family("e", "gauge", "no labels, all digits", [({}, 1795000000.123)]),
]


def test_every_value_comes_back_and_labels_are_escaped() -> None:
    samples, kinds = parse(render(FAMILIES))
    assert value(samples, "a_loss", run='x"y\\z\nw') == 0.1 + 0.2
    assert value(samples, "b_total", run="r", k="1") == 3
    assert math.isnan(value(samples, "d", n="nan"))
    assert value(samples, "d", n="-inf") == -math.inf
    assert value(samples, "e") == 1795000000.123
    assert kinds == {"a_loss": "gauge", "b_total": "counter", "d": "gauge", "e": "gauge"}
    assert len(samples) == 6
    assert render([]) == ""


@pytest.mark.parametrize(
    "text",
    [
        "# TYPE a gauge\na 1",  # no end of line
        "# TYPE a gauge\na 1\na 2\n",
        "# TYPE a gauge\nb 1\n",
        "a 1\n",
        '# TYPE a gauge\na{x="1} 1\n',
        '# TYPE a gauge\na{x="\\q"} 1\n',
        "# TYPE a gauge\na nan\n",
        "# TYPE a gauge\na 1,5\n",
        "# TYPE a histogram\na 1\n",
        "# TYPE a counter\na 1\n",
    ],
)
def test_the_reader_is_strict(text: str) -> None:
    with pytest.raises(AssertionError):
        parse(text)


def test_a_scrape_over_http() -> None:
    endpoint = Endpoint("127.0.0.1", 0, lambda: FAMILIES)
    url = f"http://127.0.0.1:{endpoint.port}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert answer.read().decode() == render(FAMILIES)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/secrets", timeout=5)
    assert refused.value.code == 404
    # A client that goes away in mid-question takes nobody along.
    with socket.create_connection(("127.0.0.1", endpoint.port or 0)) as client:
        client.sendall(b"GET /met")
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        assert parse(answer.read().decode())
    endpoint.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/metrics", timeout=5)


def test_a_port_in_use_is_logged_and_that_is_all(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("megatron_math").propagate = True
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        endpoint = Endpoint("127.0.0.1", port, lambda: FAMILIES)
        assert endpoint.port is None
        endpoint.close()
    assert f"no Prometheus endpoint on 127.0.0.1:{port}" in caplog.text
    assert Endpoint("no.such.host.invalid", 0, list).port is None
