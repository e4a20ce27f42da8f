"""ChatTemplate: messages to one text, and who speaks where in it.

Reads `chat_template.jinja` beside a tokenizer, else `chat_template` of its tokenizer_config.json.
Templates come with downloaded models, so they run in jinja2's immutable sandbox.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from megatron_math.base.errors import UserError
from megatron_math.tokenizer.interface import Tokenizer
from megatron_math.tokenizer.special_tokens import (
    TEMPLATE_FILE,
    name_in,
    read_object,
    template_entry,
)

SPEAKERS = {  # role of a message -> role of its tokens (dataset/documents.ROLES)
    "system": "prompt",
    "developer": "prompt",
    "user": "prompt",
    "assistant": "solution",
    "tool": "tool_output",
    "function": "tool_output",
    "ipython": "tool_output",
}
PLAIN_KEYS = {"role", "content"}  # with others an assistant says more than its content
KEY_LETTERS = 3  # special names are sorted by so many first letters, to be looked for quickly


class ChatTemplate:
    """tokenizer: the one that encodes the rendered text, in which special tokens' names are ids.

    The text holds the BOS that the template writes, and the tokenizer adds none to it. sha256: of
    the template's source. Raises UserError when the source is no template.
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.sha256 = hashlib.sha256(source.encode("utf-8")).hexdigest()
        self.tokenizer = tokenizer.with_names_as_ids()
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _to_json
        # strftime_now stays undefined: a text must not depend on the day on which it is tokenized.
        # Templates that ask whether it is defined then write the date that they hold themselves.
        environment.globals["raise_exception"] = _refuse
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(
                f"the chat template beside {tokenizer.path} cannot be read: {error}"
            ) from None
        self._given = _token_names(tokenizer) | {"tools": None, "documents": None}
        self._special: dict[str, list[str]] = defaultdict(list)
        for name in tokenizer.special_names():
            self._special[name[:KEY_LETTERS]].append(name)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[tuple[int, str]]]:
        """(text, [(UTF-8 byte at which a stretch ends, role of its tokens)]), in the text's order.

        What an assistant says is `solution`, with the special token that ends its turn; the header
        before it and the white space after it are prompt. Messages of tools are `tool_output` with
        all that is around them, of unknown speakers `other`, the rest is `prompt`.

        Raises ValueError, saying why, for what is no list of messages, when the template refuses
        them, when it writes the beginning of a chat otherwise if more follows (then nothing tells
        whose words are whose), and when a message spells a special token: it would end a turn, or
        begin one, in somebody else's name.
        """
        self._check(messages)
        text = self._text(messages)
        stretches: list[tuple[int, str]] = []
        end = 0
        for speaker, num_messages in _turns(messages):
            first, end = end, end + num_messages
            if speaker != "prompt":
                starts_at, ends_at = self._place(speaker, messages, first, end, text)
                stretches += [(starts_at, "prompt"), (ends_at, speaker)]
        stretches.append((len(text), "prompt"))
        return text, list(_in_bytes(text, stretches))

    def _place(
        self, speaker: str, messages: Sequence[Mapping[str, Any]], first: int, end: int, text: str
    ) -> tuple[int, int]:
        """Where in `text`, in characters, stands what the messages first .. end - 1 say."""
        ends_at = self._prefix(messages[:end], text) if end < len(messages) else len(text)
        without_header = self._prefix(messages[:first], text) if first else 0
        if speaker != "solution":
            return without_header, ends_at
        starts_at = self._prefix(messages[:first], text, add_generation_prompt=True)
        message = messages[first]
        content = message.get("content")
        if starts_at == without_header and isinstance(content, str) and set(message) <= PLAIN_KEYS:
            # The template knows no generation prompt: the header is what stands before the content.
            starts_at = max(starts_at, text.find(content.strip(), starts_at, ends_at))
        said = text[starts_at:ends_at].rstrip()
        if any(said.endswith(name) for names in self._special.values() for name in names):
            ends_at = starts_at + len(said)
        return starts_at, ends_at

    def _prefix(self, messages: Sequence[Any], text: str, **options: bool) -> int:
        prefix = self._text(messages, **options)
        if not text.startswith(prefix):
            raise ValueError(
                f"the chat template writes the first {len(messages)} messages otherwise when more "
                f"follow, so that nothing tells whose words are whose"
            )
        return len(prefix)

    def _text(self, messages: Sequence[Any], *, add_generation_prompt: bool = False) -> str:
        try:
            return self._template.render(
                self._given, messages=messages, add_generation_prompt=add_generation_prompt
            )
        except jinja2.UndefinedError as error:
            hint = ""
            if "strftime_now" in str(error):
                hint = "; a text must not depend on today's date, so write a date into the template"
            raise ValueError(f"the chat template needs what is not there: {error}{hint}") from None
        except Exception as error:  # noqa: BLE001 - a template can do whatever Python can
            raise ValueError(f"the chat template refuses these messages: {error}") from None

    def _check(self, messages: Any) -> None:
        if not isinstance(messages, list) or not messages:
            raise ValueError("'messages' must be a list of at least one message")
        for number, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise ValueError(f"message {number} is no object with a string under 'role'")
            content = message.get("content")
            says_more = content is None and bool(message.keys() - PLAIN_KEYS)  # it calls tools
            if not (isinstance(content, str) or says_more):
                raise ValueError(
                    f"message {number}: 'content' must be a string, found {content!r:.60}"
                )
            for said in _strings(message):
                name = self._special_in(said)
                if name is not None:
                    raise ValueError(f"message {number} spells the special token {name!r}")

    def _special_in(self, text: str) -> str | None:
        for key, names in self._special.items():
            if key in text:
                for name in names:
                    if name in text:
                        return name
        return None


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`, transformers' mark for what to train on.

    It writes nothing; roles come from prefixes, which every template has.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def read_chat_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """See Tokenizer.chat_template."""
    source = template_entry(tokenizer.path.parent).get("chat_template")
    if isinstance(source, list):  # several, with names
        named = {entry.get("name"): entry.get("template") for entry in source}
        if "default" not in named:
            raise UserError(
                f"the files beside {tokenizer.path} hold the chat templates {sorted(named)} and "
                f"none is 'default'; write the one to use into {TEMPLATE_FILE} there"
            )
        source = named["default"]
    return None if source is None else ChatTemplate(source, tokenizer)


def _token_names(tokenizer: Tokenizer) -> dict[str, str]:
    """bos_token, eos_token and the like, as templates write them."""
    name_of = {token_id: name for name, token_id in tokenizer.special_names().items()}
    known = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eod_id}
    names = {key: name_of[i] for key, i in known.items() if i is not None and i in name_of}
    for key, value in read_object(tokenizer.path.parent / "tokenizer_config.json").items():
        name = name_in(value)
        if key.endswith("_token") and name is not None:
            names[key] = name
    return names


def _turns(messages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """(role of the tokens, number of messages): every assistant alone, others by neighbours."""
    for speaker, run in groupby(messages, lambda m: SPEAKERS.get(m["role"], "other")):
        num_messages = len(list(run))
        if speaker == "solution":
            yield from [(speaker, 1)] * num_messages
        else:
            yield speaker, num_messages  # tools that answer one after another may share a turn


def _in_bytes(text: str, stretches: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Ends in bytes for ends in characters; empty stretches go, neighbours of a role are joined."""
    filled, start = [], 0
    for end, role in stretches:
        if end > start:
            filled.append((end - start, role, text[start:end]))
            start = end
    num_bytes = 0
    for role, group in groupby(filled, lambda item: item[1]):
        num_bytes += sum(len(piece.encode("utf-8")) for _, _, piece in group)
        yield num_bytes, role


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
