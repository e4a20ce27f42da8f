"""The process that is killed: asks COUNT prompts of the server at URL and keeps them in FOLDER."""

import sys
from pathlib import Path

from megatron_math.engine.config import EngineConfig, ServerConfig
from megatron_math.engine.interface import Request
from megatron_math.engine.open import open_engine

if __name__ == "__main__":
    url, folder, count, concurrency = sys.argv[1:]
    server = ServerConfig(
        url=url, model="m", concurrency=int(concurrency), first_wait_s=0.01, silence_s=5
    )
    requests = (Request(f"prompt {i}", 16, n=2, seed=i) for i in range(int(count)))
    with (
        open_engine(EngineConfig(server=server), Path(folder)) as engine,
        open(Path(folder) / "out.txt", "w") as out,
    ):
        for number, answer in engine.answers(requests):
            out.write(f"{number} {[item.text for item in answer.generations]}\n")
