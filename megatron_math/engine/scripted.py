"""An engine that answers from a script: tests, rehearsals, and counting what would be asked."""

from collections.abc import Callable, Mapping, Sequence

from megatron_math.base.errors import UserError
from megatron_math.engine.interface import (
    Answer,
    Engine,
    Generation,
    Request,
    cut_at_stop,
    refuse_continuation,
)


class ScriptedEngine(Engine):
    """Answers with `script[prompt]` or `script(prompt)`; words count as tokens.

    `asked` keeps every prompt in the order in which it came.
    """

    def __init__(self, script: Mapping[str, str] | Callable[[str], str]) -> None:
        self._answer = script if callable(script) else self._look_up(script)
        self.asked: list[str] = []

    @staticmethod
    def _look_up(script: Mapping[str, str]) -> Callable[[str], str]:
        def answer(prompt: str) -> str:
            if prompt not in script:
                raise UserError(f"the script has no answer for the prompt {prompt!r:.200}")
            return script[prompt]

        return answer

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        generations = []
        for prompt in prompts:
            self.asked.append(prompt)
            text, _ = cut_at_stop(self._answer(prompt), stop)
            words = text.split(" ")
            if len(words) > max_new_tokens:
                text = " ".join(words[:max_new_tokens])
                generations.append(Generation(text, "length", max_new_tokens))
            else:
                generations.append(Generation(text, "stop", len(words)))
        return generations

    def answer_group(self, requests: Sequence[Request]) -> list[Answer]:
        """Chats too: their turns, one a line, are the prompt. All samples are equal."""
        answers = []
        for request in requests:
            refuse_continuation(self, request)
            prompt = "\n".join(request.texts())
            generation = self.generate([prompt], request.max_new_tokens, request.stop)[0]
            answers.append(
                Answer(
                    (generation,) * request.n,
                    prompt_tokens=len(prompt.split(" ")),
                    new_tokens=request.n * generation.num_tokens,
                )
            )
        return answers
