"""The real counterpart: `transformers serve` with a tiny random model, on loopback."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import needs_serve, served

from megatron_math.engine.config import EngineConfig, ServerConfig
from megatron_math.engine.hf import HuggingFaceEngine
from megatron_math.engine.interface import Message, Request
from megatron_math.engine.open import open_engine

pytestmark = [
    pytest.mark.soak,  # the server alone takes half a minute to load
    needs_serve,
]
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tiny_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a chat template, and `do_sample`, without which this server never draws."""
    folder = tmp_path_factory.mktemp("model") / "hf"
    shutil.copytree(tiny_hf, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": True}))
    return folder


@pytest.fixture(scope="module")
def server_url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(model, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


def test_a_real_server_gives_the_local_model_s_texts(
    server_url: str, model: Path, tmp_path: Path
) -> None:
    server = ServerConfig(
        url=server_url, model=str(model), api="completions", concurrency=4, silence_s=60
    )
    prompts = [f"{i} plus {i} is" for i in range(12)]
    for _ in range(2):
        with open_engine(EngineConfig(server=server), tmp_path) as engine:
            generations = engine.generate(prompts, 12)
            assert engine.file.calls == 12
    local = HuggingFaceEngine(model).generate(prompts, 12)
    assert [g.text for g in generations] == [g.text for g in local]
    assert [g.finish for g in generations] == [g.finish for g in local]


def test_a_chat_with_samples(server_url: str, model: Path, tmp_path: Path) -> None:
    server = ServerConfig(url=server_url, model=str(model), samples="apart", silence_s=60)
    request = Request((Message("user", "2 + 2"),), 8, n=2, temperature=1.0, seed=3)
    with open_engine(EngineConfig(server=server), tmp_path) as engine:
        [(_, answer)] = engine.answers([request])
    assert answer.failure is None
    assert len(answer.generations) == 2
    assert answer.generations[0].text != answer.generations[1].text
