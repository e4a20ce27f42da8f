"""The `engine` section: who is asked, and what it may cost."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from megatron_math.base.config import LOCATION, Section
from megatron_math.base.secrets import secret_values
from megatron_math.engine.wire import OWN_KEYS

Seconds = Annotated[float, Field(gt=0), LOCATION]
Count = Annotated[int, Field(ge=1), LOCATION]
Limit = Annotated[int | None, Field(ge=0), LOCATION]


class ServerConfig(Section):
    """An OpenAI-compatible server: vLLM, SGLang, `transformers serve`, a hosted one."""

    url: Annotated[str, Field(pattern=r"^https?://[^/]+"), LOCATION]
    """Where its API begins, mostly ending in /v1. The same model elsewhere answers the same."""
    model: str = Field(min_length=1)
    """The model's name at the server."""
    revision: str = ""
    """Anything that tells two models of one name apart, such as a date or a commit."""
    api: Literal["chat", "completions"] = "chat"
    """chat: /chat/completions, a text is the user's only turn; completions: texts are continued."""
    samples: Literal["together", "apart"] = "together"
    """How n samples are asked for: in one call, or in n calls with the seeds s, s + 1, ... ."""
    extra: dict[str, Any] = {}
    """Further keys of every call, such as top_k or chat_template_kwargs."""
    key_env: Annotated[str, LOCATION] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; without one, none is sent."""
    concurrency: Count = 64
    """Calls in flight at most. Begins at 8, grows, and halves at 429, 503 and time-outs."""
    connect_s: Seconds = 10
    """Seconds to wait for a connection."""
    silence_s: Seconds = 600
    """Seconds without a byte: an answer comes in one piece, so this is the longest one takes."""
    tries: Count = 8
    """How often a request is sent before it counts as failed."""
    first_wait_s: Seconds = 0.5
    """Seconds before the second try; doubles with every further one, and half of it is random."""
    longest_wait_s: Seconds = 60
    """Seconds between two tries at most, where the server does not ask for more."""
    retry_after_s: Seconds = 900
    """Longest Retry-After that is waited for; a server that asks for more ends the request."""
    failures_in_a_row: Count = 20
    """Failed requests without an answer between them that end the job."""

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.query or parts.fragment or "@" in parts.netloc or parts.port == 0:
            raise ValueError(
                "a URL without user, query and fragment is needed; keys come by key_env"
            )
        return url

    @field_validator("key_env")
    @classmethod
    def _is_masked(cls, name: str) -> str:
        if not secret_values({name: "x" * 8}):
            raise ValueError(
                "the variable's name must end in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS, so "
                "that its value is kept out of logs"
            )
        return name

    @field_validator("extra")
    @classmethod
    def _no_own_keys(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if own := sorted(OWN_KEYS & extra.keys()):
            raise ValueError(f"{', '.join(own)} is set by the request; leave it out of 'extra'")
        return extra


class LocalConfig(Section):
    """A Hugging Face folder, asked in this process."""

    folder: Annotated[Path, LOCATION]
    """Known by content, wherever it lies."""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of weights and arithmetic."""
    batch_size: Count = 64
    """Prompts that are continued together."""


class VllmConfig(Section):
    """A Hugging Face folder in vLLM, in this process."""

    folder: Annotated[Path, LOCATION]
    """Known by content, wherever it lies."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    """Of weights and arithmetic."""
    options: dict[str, Any] = {}
    """Further arguments of vllm.LLM, such as tensor_parallel_size or max_model_len."""


class BudgetConfig(Section):
    """What may be spent in one folder of answers, all runs together. It changes no answer."""

    calls: Limit = None
    """Calls, second tries included."""
    tokens: Limit = None
    """Tokens of prompts and answers together."""
    money: Annotated[float | None, Field(ge=0), LOCATION] = None
    """In the currency of the prices."""
    price_in: Annotated[float, Field(ge=0), LOCATION] = 0.0
    """Of a million tokens of prompts."""
    price_out: Annotated[float, Field(ge=0), LOCATION] = 0.0
    """Of a million tokens of answers."""

    @model_validator(mode="after")
    def _has_prices(self) -> "BudgetConfig":
        if self.money is not None and not self.price_in and not self.price_out:
            raise ValueError("money needs price_in or price_out, else it would never be spent")
        return self


class EngineConfig(Section):
    """Who is asked (one of `server`, `hf`, `megatron` and `vllm`), and the budget."""

    server: ServerConfig | None = None
    hf: LocalConfig | None = None
    megatron: LocalConfig | None = None
    """`folder` is a checkpoint, or a folder of checkpoints: the newest."""
    vllm: VllmConfig | None = None
    budget: Annotated[BudgetConfig, LOCATION] = BudgetConfig()

    @model_validator(mode="after")
    def _one_engine(self) -> "EngineConfig":
        named = (self.server, self.hf, self.megatron, self.vllm)
        if sum(one is not None for one in named) != 1:
            raise ValueError("give one of 'server', 'hf', 'megatron' and 'vllm'")
        return self
