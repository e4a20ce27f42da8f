"""Chats as text, and who speaks where."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_math.base.errors import UserError
from megatron_math.dataset.documents import ROLES
from megatron_math.tokenizer import Tokenizer, load_tokenizer
from megatron_math.tokenizer.chat_template import SPEAKERS, ChatTemplate
from megatron_math.tokenizer.encoder import flat_texts

LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {{- message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
CHATML = """{% for m in messages %}{{ '<|start_header_id|>' + m.role + '\\n' + m.content + '<|eot_id|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant\\n' }}{% endif %}"""  # noqa: E501
INST = """{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}
{% if loop.index0 % 2 %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}
{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}
{% endfor %}"""
CHAT = [
    {"role": "system", "content": "Zähle gut."},
    {"role": "user", "content": "1 + 1 = ?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "sicher? 🙂"},
    {"role": "assistant", "content": "Ja, 2."},
]


def make(tokenizer: Tokenizer, source: str) -> ChatTemplate:
    return ChatTemplate(source, tokenizer)


def spoken(template: ChatTemplate, messages: Any) -> list[tuple[str, str]]:
    """(role, its text) of every stretch; together they are the whole text."""
    text, ends = template.render(messages)
    data, start, stretches = text.encode(), 0, []
    for end, role in ends:
        stretches.append((role, data[start:end].decode()))
        start = end
    assert start == len(data)
    return stretches


@pytest.fixture
def llama(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return tokenizers["TikTokenizer"]


def test_roles_are_those_of_datasets() -> None:
    assert {*SPEAKERS.values(), "other"} == set(ROLES)


def test_an_assistants_words_and_its_end_of_turn(llama: Tokenizer) -> None:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assistant = head.format("assistant")
    opening = (
        f"<|begin_of_text|>{head.format('system')}Zähle gut.<|eot_id|>"
        f"{head.format('user')}1 + 1 = ?<|eot_id|>{assistant}"
    )
    assert spoken(make(llama, LLAMA3), CHAT) == [
        ("prompt", opening),
        ("solution", "2<|eot_id|>"),
        ("prompt", f"{head.format('user')}sicher? 🙂<|eot_id|>{assistant}"),
        ("solution", "Ja, 2.<|eot_id|>"),
    ]


def test_white_space_behind_the_end_of_turn_is_nobodys(llama: Tokenizer) -> None:
    stretches = spoken(make(llama, CHATML), CHAT)
    assert stretches[1] == ("solution", "2<|eot_id|>")
    assert stretches[2][1].startswith("\n<|start_header_id|>user\n")
    assert stretches[-2:] == [("solution", "Ja, 2.<|eot_id|>"), ("prompt", "\n")]


def test_a_template_without_generation_prompt(tokenizers: dict[str, Tokenizer]) -> None:
    template = make(tokenizers["SentencePieceTokenizer"], INST)
    assert spoken(template, CHAT[1:]) == [
        ("prompt", "<s>[INST] 1 + 1 = ? [/INST] "),
        ("solution", "2</s>"),
        ("prompt", "[INST] sicher? 🙂 [/INST] "),
        ("solution", "Ja, 2.</s>"),
    ]
    with pytest.raises(ValueError, match="refuses these messages: Roles must alternate"):
        template.render([CHAT[1], CHAT[1]])
    header = "{% for m in messages %}{{ '### ' + m.role + ':\\n' + m.content + '\\n' }}{% endfor %}"
    assert spoken(make(tokenizers["SentencePieceTokenizer"], header), CHAT[1:3]) == [
        ("prompt", "### user:\n1 + 1 = ?\n### assistant:\n"),
        ("solution", "2\n"),
    ]


def test_tools_and_strangers(llama: Tokenizer) -> None:
    chat = [
        CHAT[1],
        {"role": "assistant", "content": "", "tool_calls": [{"name": "add", "arguments": [1, 1]}]},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "2.0"},
        {"role": "assistant", "content": "2"},
        {"role": "narrator", "content": "The end."},
    ]
    source = LLAMA3.replace(
        "{{- message.content", "{%- if message.tool_calls %}{{- message.tool_calls | tojson }}"
        "{%- endif %}{{- message.content"
    )  # fmt: skip
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert spoken(make(llama, source), chat)[1:] == [
        ("solution", '[{"name": "add", "arguments": [1, 1]}]<|eot_id|>'),
        ("tool_output", f"{head.format('tool')}2<|eot_id|>{head.format('tool')}2.0<|eot_id|>"),
        ("prompt", head.format("assistant")),
        ("solution", "2<|eot_id|>"),
        ("other", f"{head.format('narrator')}The end.<|eot_id|>"),
    ]


def test_tools_that_share_a_turn(llama: Tokenizer) -> None:
    """The turn is closed behind the last of them only, so that no prefix ends between two."""
    source = """{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- 'TOOLS ' }}{%- endif %}
        {{- '(' + m.content + ')' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- ' END ' }}{%- endif %}
    {%- else %}{{- m.role + ' ' + m.content + ' END ' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant ' }}{%- endif %}"""
    chat = [CHAT[1], CHAT[2], *[{"role": "tool", "content": str(i)} for i in range(3)], CHAT[4]]
    stretches = spoken(make(llama, source), chat)
    assert ("tool_output", "TOOLS (0)(1)(2) END ") in stretches
    assert stretches[-1] == ("solution", "Ja, 2. END ")


def test_a_template_that_rewrites_what_went_before_is_refused(llama: Tokenizer) -> None:
    """Some take the reasoning out of all turns but the last."""
    source = LLAMA3.replace(
        "message.content | trim",
        "(message.content if loop.last else message.content.split('</think>')[-1]) | trim",
    )
    chat = [*CHAT[:2], {"role": "assistant", "content": "<think>1, 2</think>2"}, *CHAT[3:]]
    template = make(llama, source)
    with pytest.raises(ValueError, match="first 3 messages otherwise when more follow"):
        template.render(chat)
    assert spoken(template, chat[:3])[-1] == ("solution", "<think>1, 2</think>2<|eot_id|>")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "must be a list of at least one message"),
        ([], "must be a list of at least one message"),
        (["hello"], "message 0 is no object with a string under 'role'"),
        ([{"content": "x"}], "message 0 is no object"),
        ([{"role": "user"}], "'content' must be a string, found None"),
        ([{"role": "user", "content": 5}], "'content' must be a string, found 5"),
        ([{"role": "user", "content": ["parts"]}], "'content' must be a string"),
        ([{"role": "user", "content": "a<|eot_id|>b"}], r"message 0 spells .*<\|eot_id\|>"),
        ([CHAT[1], {"role": "a<|end_of_text|>", "content": ""}], "message 1 spells the special"),
        (
            [{"role": "user", "content": "a", "x": [{"<|begin_of_text|>": 1}]}],
            r"message 0 spells the special token '<\|begin_of_text\|>'",
        ),
    ],
)
def test_what_is_refused(llama: Tokenizer, messages: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make(llama, LLAMA3).render(messages)


def test_special_tokens_of_the_template_are_ids_and_those_of_texts_are_not_let_in(
    tokenizers: dict[str, Tokenizer],
) -> None:
    for name, source in (("TikTokenizer", LLAMA3), ("SentencePieceTokenizer", INST)):
        original = tokenizers[name]
        template = make(original, source)
        text, _ = template.render(CHAT[1:])
        encoder = template.tokenizer.open_encoder()
        buffers = flat_texts([text])
        ids, lengths = encoder.encode_flat(*buffers)
        special = set(original.special_names().values())
        found = [token for token in ids.tolist() if token in special]
        assert found[0] == original.bos_id
        assert len(found) == sum(text.count(word) for word in original.special_names())
        assert not special & set(original.encode(text))
        ends = template.tokenizer.token_ends(*buffers, ids, lengths)
        assert ends[0] == len("<s>" if name == "SentencePieceTokenizer" else "<|begin_of_text|>")
        assert ends[-1] == len(text.encode())


def test_a_sandbox_and_a_text_that_does_not_depend_on_the_day(llama: Tokenizer) -> None:
    dated = "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}"
    assert make(llama, dated).render(CHAT)[0] == "2024"
    with pytest.raises(ValueError, match="depend on today's date"):
        make(llama, "{{ strftime_now('%Y') }}").render(CHAT)
    with pytest.raises(ValueError, match="refuses|needs"):
        make(llama, "{{ messages.__class__.__mro__[1].__subclasses__() }}").render(CHAT)
    with pytest.raises(ValueError, match="refuses"):
        make(llama, "{{ messages.append(1) }}").render(CHAT)
    loop = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% break %}{% endfor %}"  # noqa: E501
    assert make(llama, loop).render(CHAT[:1])[0] == "system"


def test_files_beside_the_tokenizer(
    tokenizers: dict[str, Tokenizer], tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    assert tokenizers["HuggingFaceTokenizer"].chat_template is None
    folder = tmp_path / "a"
    tokenizers["HuggingFaceTokenizer"].save(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    several = [
        {"name": "tools", "template": "T"},
        {"name": "default", "template": "D{{ eos_token }}"},
    ]
    for entry, expected in (("plain {{ bos_token }}", "plain <s>"), (several, "D</s>")):
        content = json.dumps(config | {"chat_template": entry})
        (folder / "tokenizer_config.json").write_text(content)
        template = load_tokenizer(folder).chat_template
        assert template is not None
        assert template.render(CHAT[:2])[0] == expected
        assert template.tokenizer.kind == "HuggingFaceTokenizer"
    (folder / "chat_template.jinja").write_text("from its own file")
    template = load_tokenizer(folder).chat_template
    assert template is not None
    assert template.render(CHAT[:2])[0] == "from its own file"
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(UserError, match="cannot be read"):
        _ = load_tokenizer(folder).chat_template
    (folder / "chat_template.jinja").unlink()
    content = json.dumps(config | {"chat_template": several[:1]})
    (folder / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"\['tools'\] and none is 'default'"):
        _ = load_tokenizer(folder).chat_template


@pytest.mark.parametrize("kind", ["SentencePieceTokenizer", "TikTokenizer", "HuggingFaceTokenizer"])
def test_the_template_goes_where_the_tokenizer_goes(
    kind: str, tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    load_tokenizer(tokenizer_files[kind]).save(first)
    (first / "chat_template.jinja").write_text(INST)
    tokenizer = load_tokenizer(first)
    assert tokenizer.chat_template is not None
    for write, folder in ((tokenizer.save, tmp_path / "b"), (tokenizer.save_hf, tmp_path / "c")):
        write(folder)
        again = load_tokenizer(folder).chat_template
        assert again is not None
        assert again.sha256 == tokenizer.chat_template.sha256
        assert again.render(CHAT[1:]) == tokenizer.chat_template.render(CHAT[1:])


def test_the_same_text_and_ids_as_transformers(
    tokenizers: dict[str, Tokenizer], tokenizer_files: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    for kind, source in (("TikTokenizer", LLAMA3), ("SentencePieceTokenizer", INST)):
        folder = tmp_path / kind
        load_tokenizer(tokenizer_files[kind]).save(folder)
        (folder / "chat_template.jinja").write_text(source)
        tokenizer = load_tokenizer(folder)
        tokenizer.save_hf(folder / "hf")
        theirs = AutoTokenizer.from_pretrained(folder / "hf")
        template = tokenizer.chat_template
        assert template is not None
        text, _ = template.render(CHAT[1:])
        assert theirs.apply_chat_template(CHAT[1:], tokenize=False) == text
        expected = theirs.apply_chat_template(CHAT[1:], return_dict=False)
        assert template.tokenizer.encode(text) == expected
