"""A secret is refused in a road file and masked in what is printed; other values are left alone."""

import io
import logging
import sys
import time
from pathlib import Path

import pytest

from megatron_math.base.errors import UserError
from megatron_math.base.road import Road
from megatron_math.base.secrets import keep_secrets, masked, refuse_secrets

KEY = "sk-canary-6b1f0e9d2c"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter22@host/v1", "http://ghp_0123456789@host", "postgres://me:pw@host/db",
        "https://host/v1?api_key=abc", "https://host/v1?x=1&access_token=abc",
        "s3://bucket/x?X-Amz-Signature=1&signature=abc", "see https://me:pw@host for more",
        f"Bearer {KEY}",
    ],
)  # fmt: skip
def test_a_secret_in_a_road_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UserError, match=r"road\.yaml: synthesize\.engine\.0 ") as refusal:
        refuse_secrets({"name": "x", "synthesize": {"engine": [url]}}, "road.yaml")
    for secret in ("hunter22", "ghp_", "pw@", "=abc", KEY):
        assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8000/v1", "/data/a@b/c", "me@host.org", "ssh://git@host/x", "50%@3",
        "a=b&key=", "https://host/v1?model=key", "hdfs://host/user/key=1/x", "keys: 3",
    ],
)  # fmt: skip
def test_other_values_pass(text: str) -> None:
    refuse_secrets({"data": {text: text, "number": 3, "none": None}}, "road.yaml")


def test_an_expanded_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "road.yaml"
    path.write_text("name: x\nbase: {hf: '/models/${OPENAI_API_KEY}'}\n")
    with pytest.raises(UserError, match=r"base\.hf holds the value of OPENAI_API_KEY") as refusal:
        Road.load(path)
    assert KEY not in str(refusal.value)
    with pytest.raises(UserError, match="a URL with a password or key"):
        Road.load(path, ["base={hf: 'https://me:hunter22@host/x'}"])


def test_masks() -> None:
    assert masked(f"asked with {KEY}.") == "asked with <OPENAI_API_KEY>."
    assert (
        masked("at https://me:pw@host/v1?api_key=x&y=1") == "at https://***@host/v1?api_key=***&y=1"
    )
    assert masked("a@b, 3 tokens, https://host/v1") == "a@b, 3 tokens, https://host/v1"


def test_standard_error_is_masked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    keep_secrets()
    keep_secrets()
    try:
        raise RuntimeError(f"cannot ask https://me:hunter22@host with {KEY}")
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
        logging.StreamHandler(sys.stderr).handle(
            logging.LogRecord("x", 30, "", 0, "with %s", (KEY,), sys.exc_info())
        )
    told = stream.getvalue()
    assert told.count("cannot ask https://***@host with <OPENAI_API_KEY>") == 2
    assert KEY not in told
    assert "hunter22" not in told


def test_a_long_word_is_looked_through_once() -> None:
    """200,000 letters took minutes: every one of them was tried as the begin of a scheme."""
    begin = time.monotonic()
    assert masked("x" * 200_000) == "x" * 200_000
    assert time.monotonic() - begin < 5
