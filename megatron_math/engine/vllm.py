"""vLLM in this process ("offline"): batches and memory are its own affair.

vllm is imported when an engine is made, not before.
"""

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, Literal

from megatron_math.base.errors import UserError
from megatron_math.engine.interface import (
    NO_ROOM,
    Answer,
    Engine,
    Finish,
    Generation,
    Request,
    cut_at_stop,
    generate_by_answers,
)

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


class VllmEngine(Engine):
    """A Hugging Face folder in vLLM. options: further arguments of its `LLM`.

    Raises UserError where vLLM is not installed. A prompt that vLLM refuses fails by itself.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        dtype: Literal["fp32", "bf16"] = "bf16",
        options: dict[str, Any] | None = None,
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                f"the engine vllm was asked for, and cannot be imported ({error}); install the "
                f"extra 'vllm' on a machine with a GPU, or take the engine hf"
            ) from error
        self.in_flight = 4096  # vLLM forms its own batches, of what it has
        self._parameters = vllm.SamplingParams
        self._model = vllm.LLM(model=str(folder), dtype=DTYPES[dtype], **(options or {}))
        self._tokenizer = self._model.get_tokenizer()
        self._max_tokens = int(self._model.llm_engine.model_config.max_model_len)

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        return generate_by_answers(self, prompts, max_new_tokens, stop)

    def answer_group(self, requests: Sequence[Request]) -> list[Answer]:
        """All at once; prompts go in as ids, so that nothing is added to a chat's template."""
        ids = [self._encode(request) for request in requests]
        known = [self._known(request, row) for request, row in zip(requests, ids, strict=True)]
        spare = [0 if request.continuation is not None else 1 for request in requests]
        fits = [i for i, row in enumerate(ids) if 0 < len(row) + spare[i] <= self._max_tokens]
        outputs = self._model.generate(
            [{"prompt_token_ids": ids[i]} for i in fits],
            [self._parameters(**_settings(requests[i])) for i in fits],
            use_tqdm=False,
        )
        answers = [
            Answer(failure=f"{NO_ROOM}: {len(row)} tokens, of {self._max_tokens}") for row in ids
        ]
        for i, output in zip(fits, outputs, strict=True):
            answers[i] = _answer(requests[i], ids[i], known[i], output)
        return answers

    def _encode(self, request: Request) -> list[int]:
        if isinstance(request.prompt, str):
            text = request.prompt + (request.continuation or "")
            return list(self._tokenizer(text)["input_ids"])
        text = self._tokenizer.apply_chat_template(
            [message._asdict() for message in request.prompt],
            tokenize=False,
            add_generation_prompt=True,
        )
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _known(self, request: Request, whole: list[int]) -> int:
        """How many of a text's ids are its prompt's; a token across the border is not."""
        if request.continuation is None:
            return len(whole)
        own = list(self._tokenizer(request.texts()[0])["input_ids"])
        return min(len(commonprefix([own, whole])), len(whole) - 1)


def _settings(request: Request) -> dict[str, Any]:
    if request.continuation is not None:
        return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
    return {
        "max_tokens": request.max_new_tokens,
        "stop": list(request.stop),
        "n": request.n,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "logprobs": 0 if request.logprobs else None,
    }


def _answer(request: Request, ids: list[int], known: int, output: Any) -> Answer:
    if request.continuation is not None:
        given = list(zip(ids, output.prompt_logprobs, strict=True))[known:]
        values = tuple(float(entry[token].logprob) for token, entry in given)
        generation = Generation(request.continuation, "stop", len(values), values)
        return Answer((generation,), prompt_tokens=len(ids))
    generations = tuple(_generation(request, one) for one in output.outputs)
    new_tokens = sum(generation.num_tokens for generation in generations)
    return Answer(generations, prompt_tokens=len(ids), new_tokens=new_tokens)


def _generation(request: Request, one: Any) -> Generation:
    text, stopped = cut_at_stop(one.text, request.stop)
    finish: Finish = "stop" if stopped or one.finish_reason == "stop" else "length"
    values = None
    if request.logprobs and one.logprobs is not None:
        pairs = zip(one.token_ids, one.logprobs, strict=True)
        values = tuple(float(entry[token].logprob) for token, entry in pairs)
    return Generation(text, finish, len(one.token_ids), values)
