"""Batched generation in this process: the loop that every local model shares.

The decode loop is our own: `generate()` of transformers keeps finished rows in the batch until the
slowest one ends and tests stop strings row by row in Python. torch is imported when an engine is
made, not before.

Shapes: B rows of the batch, K last positions, V tokens of the vocabulary.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from os.path import commonprefix
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.log import log
from megatron_math.engine.decoder import Decoder
from megatron_math.engine.draw import Draw
from megatron_math.engine.interface import (
    NO_ROOM,
    Answer,
    Engine,
    Generation,
    Request,
    cut_at_stop,
)

# Finished rows leave the batch once this share of it is idle: each removal copies the cache.
IDLE_SHARE = 0.25
# Stop strings are looked for in the decoded tail of each row, every so many tokens.
STOP_INTERVAL_TOKENS = 4


class LocalEngine(Engine):
    """A causal language model in this process, with a tokenizer of transformers.

    tokenizer: what AutoTokenizer gives. max_tokens: of prompt and answer together. end_ids: tokens
    that end an answer. Prompts are sorted by length into batches of `batch_size` and padded on the
    left. In fp32 a row's answer is the same in any batch, up to ties between logits closer than
    rounding. A prompt that fills the model's context gets an empty answer of finish "length", and a
    warning.
    """

    def __init__(
        self, tokenizer: Any, *, max_tokens: int, end_ids: list[int], batch_size: int
    ) -> None:
        self.batch_size = batch_size
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._end_ids = end_ids

    @abstractmethod
    def _open(
        self, prompt_ids: list[list[int]], draws: Sequence[Draw | None], with_logprobs: bool
    ) -> Decoder:
        """A decoder of one batch."""

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[Generation]:
        if not prompts:
            return []
        prompt_ids = self._encode(prompts)
        fitting = self._find_fitting(prompts, prompt_ids, max_new_tokens)
        generations = iter(
            self._continue(
                [prompt_ids[i] for i in fitting], [None] * len(fitting), max_new_tokens, stop, False
            )
        )
        fits = set(fitting)
        return [
            next(generations) if i in fits else Generation("", "length", 0)
            for i in range(len(prompts))
        ]

    def answer_group(self, requests: Sequence[Request]) -> list[Answer]:
        """Samples, chats and log-probabilities too; a prompt without room for an answer fails.

        Log-probabilities are the model's own, before temperature and top_p.
        """
        given = [number for number, r in enumerate(requests) if r.continuation is not None]
        if given:
            known = dict(zip(given, self._likelihoods([requests[i] for i in given]), strict=True))
            rest = [request for request in requests if request.continuation is None]
            written = iter(self.answer_group(rest) if rest else ())
            return [known[i] if i in known else next(written) for i in range(len(requests))]
        prompt_ids = [self._encode_request(request) for request in requests]
        fits = [0 < len(ids) < self._max_tokens for ids in prompt_ids]
        rows = [
            (ids, Draw.of(request, sample))
            for request, ids, fit in zip(requests, prompt_ids, fits, strict=True)
            for sample in range(request.n if fit else 0)
        ]
        generations = iter(
            self._continue(
                [ids for ids, _ in rows],
                [draw for _, draw in rows],
                requests[0].max_new_tokens,
                requests[0].stop,
                any(request.logprobs for request in requests),
            )
        )
        return [
            self._answer(request, ids, fit, generations)
            for request, ids, fit in zip(requests, prompt_ids, fits, strict=True)
        ]

    def _answer(
        self, request: Request, ids: list[int], fit: bool, generations: Iterator[Generation]
    ) -> Answer:
        if not fit:
            return Answer(
                failure=f"{NO_ROOM}: the prompt has {len(ids)} tokens, and the model holds "
                f"{self._max_tokens}"
            )
        own = tuple(islice(generations, request.n))
        if not request.logprobs:
            own = tuple(replace(generation, logprobs=None) for generation in own)
        new_tokens = sum(generation.num_tokens for generation in own)
        return Answer(own, prompt_tokens=len(ids), new_tokens=new_tokens)

    def _likelihoods(self, requests: Sequence[Request]) -> list[Answer]:
        """How likely each request's continuation is; a token across the border belongs to it."""
        rows: list[tuple[list[int], int]] = []  # ids of the whole text, how many are the prompt's
        for request in requests:
            prompt = request.texts()[0]
            own, whole = self._encode([prompt, prompt + (request.continuation or "")])
            rows.append((whole, min(len(commonprefix([own, whole])), len(whole) - 1)))
        most = self._max_tokens
        fits = [i for i, (ids, known) in enumerate(rows) if 0 < known < len(ids) <= most]
        order = sorted(fits, key=lambda i: (-len(rows[i][0]), i))
        found: dict[int, list[float]] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            found.update(zip(batch, self._score([rows[i] for i in batch]), strict=True))
        return [
            Answer(
                (Generation(request.continuation or "", "stop", len(found[i]), tuple(found[i])),),
                prompt_tokens=len(rows[i][0]),
            )
            if i in found
            else Answer(failure=f"{NO_ROOM}: {len(rows[i][0])} tokens, of {self._max_tokens}")
            for i, request in enumerate(requests)
        ]

    def _score(self, rows: list[tuple[list[int], int]]) -> list[list[float]]:
        """Log-probabilities of each row's tokens from its second number on."""
        import torch

        lasts = [len(ids) - known for ids, known in rows]
        with torch.inference_mode():
            decoder = self._open([ids[:-1] for ids, _ in rows], [None] * len(rows), False)
            logprobs_BKV = decoder.read(max(lasts)).float().log_softmax(-1).cpu()
        return [
            logprobs_BKV[row, -last:].gather(-1, torch.tensor(ids[-last:])[:, None])[:, 0].tolist()
            for row, ((ids, _), last) in enumerate(zip(rows, lasts, strict=True))
        ]

    def _encode_request(self, request: Request) -> list[int]:
        if isinstance(request.prompt, str):
            return self._encode([request.prompt])[0]
        if not self._tokenizer.chat_template:
            raise UserError(
                "the model's tokenizer has no chat template, so it cannot be asked a chat; give "
                "it plain texts, or add chat_template.jinja to its folder"
            )
        text = self._tokenizer.apply_chat_template(
            [message._asdict() for message in request.prompt],
            tokenize=False,
            add_generation_prompt=True,
        )
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _continue(
        self,
        prompt_ids: list[list[int]],
        draws: list[Draw | None],
        max_new_tokens: int,
        stop: Sequence[str],
        with_logprobs: bool,
    ) -> list[Generation]:
        # Longest first: the batch that needs most memory is met at once, not after an hour.
        order = sorted(range(len(prompt_ids)), key=lambda i: (-len(prompt_ids[i]), i))
        answers: dict[int, Generation] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            generations = self._generate_batch(
                [prompt_ids[i] for i in batch],
                [draws[i] for i in batch],
                max_new_tokens,
                stop,
                with_logprobs,
            )
            answers.update(zip(batch, generations, strict=True))
        return [answers[i] for i in range(len(prompt_ids))]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer(list(prompts), add_special_tokens=True)["input_ids"]
        for ids in encoded:
            while ids and ids[-1] in self._end_ids:  # some tokenizers close every text themselves
                ids.pop()
        return encoded

    def _find_fitting(
        self, prompts: Sequence[str], prompt_ids: list[list[int]], max_new_tokens: int
    ) -> list[int]:
        """Prompts that leave room for an answer; the others are warned about, or all refused."""
        if max_new_tokens < 1 or not all(prompt_ids):
            raise UserError(f"{max_new_tokens} new tokens, or an empty prompt, cannot be asked for")
        fitting = [i for i, ids in enumerate(prompt_ids) if len(ids) < self._max_tokens]
        too_long = len(prompts) - len(fitting)
        if too_long:
            longest = max(range(len(prompts)), key=lambda i: len(prompt_ids[i]))
            message = (
                f"{too_long} of {len(prompts)} prompts leave no room for an answer: the longest "
                f"has {len(prompt_ids[longest])} tokens and the model holds {self._max_tokens}; "
                f"ask with fewer shots or a longer model: {prompts[longest]!r:.80}"
            )
            if not fitting:
                raise UserError(message)
            log.warning("%s", message)
        return fitting

    def _generate_batch(
        self,
        prompt_ids: list[list[int]],
        draws: list[Draw | None],
        max_new_tokens: int,
        stop: Sequence[str],
        with_logprobs: bool,
    ) -> list[Generation]:
        import torch

        room = [min(max_new_tokens, self._max_tokens - len(ids)) for ids in prompt_ids]
        new_ids: list[list[int]] = [[] for _ in prompt_ids]
        logprobs: list[list[float]] = [[] for _ in prompt_ids]
        ended = [False] * len(prompt_ids)
        with torch.inference_mode():
            decoder = self._open(prompt_ids, draws, with_logprobs)
            while True:
                done = set()
                check_stop = stop and decoder.num_steps % STOP_INTERVAL_TOKENS == 0
                for row, (token, logprob) in zip(decoder.rows, decoder.step(), strict=True):
                    if ended[row] or len(new_ids[row]) == room[row]:
                        done.add(row)  # idle until the next removal
                    elif token in self._end_ids:
                        ended[row] = True
                        done.add(row)
                    else:
                        new_ids[row].append(token)
                        logprobs[row].append(logprob)
                        if len(new_ids[row]) == room[row]:
                            done.add(row)
                if check_stop:
                    for row in self._rows_at_stop(decoder.rows, new_ids, stop):
                        ended[row] = True
                        done.add(row)
                if len(done) == len(decoder.rows):
                    break
                if len(done) >= IDLE_SHARE * len(decoder.rows):
                    decoder.drop(done)
        finished = [self._finish(ids, end, stop) for ids, end in zip(new_ids, ended, strict=True)]
        if not with_logprobs:
            return finished
        return [
            replace(generation, logprobs=tuple(values[: generation.num_tokens]))
            for generation, values in zip(finished, logprobs, strict=True)
        ]

    def _rows_at_stop(
        self, rows: list[int], new_ids: list[list[int]], stop: Sequence[str]
    ) -> list[int]:
        """Rows whose text holds a stop string. A token is at least one byte, hence the tail."""
        longest_bytes = max(len(string.encode()) for string in stop)
        tail_tokens = longest_bytes + 2 * STOP_INTERVAL_TOKENS
        tails = self._decode([new_ids[row][-tail_tokens:] for row in rows])
        hits = [row for row, text in zip(rows, tails, strict=True) if cut_at_stop(text, stop)[1]]
        # A tail may decode differently from the whole (a leading space): the whole text decides.
        texts = self._decode([new_ids[row] for row in hits])
        return [row for row, text in zip(hits, texts, strict=True) if cut_at_stop(text, stop)[1]]

    def _finish(self, ids: list[int], ended: bool, stop: Sequence[str]) -> Generation:
        text, stopped = cut_at_stop(self._decode([ids])[0], stop)
        if stopped:  # tokens made after the stop string, before it was looked for, do not count
            while len(ids) > 1 and cut_at_stop(self._decode([ids[:-1]])[0], stop)[1]:
                ids = ids[:-1]
        return Generation(text, "stop" if ended or stopped else "length", len(ids))

    def _decode(self, batch: list[list[int]]) -> list[str]:
        if not batch:
            return []
        return self._tokenizer.batch_decode(
            batch, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
