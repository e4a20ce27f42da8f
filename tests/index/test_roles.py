"""Who speaks at each token, from records to the loss of a blend."""

import json
from pathlib import Path

import numpy as np
import pytest
from written_indexes import write_index

from megatron_math.base.road import Road
from megatron_math.blend.run import run as run_blend
from megatron_math.dataset.documents import ROLES
from megatron_math.dataset.plan import load_plan
from megatron_math.dataset.reader import PlanReader
from megatron_math.index.documents import (
    EncodedDocuments,
    Recipe,
    Texts,
    differing_documents,
    encode_texts,
    make_texts,
    scan_block,
)
from megatron_math.tokenizer import Tokenizer, load_tokenizer

PROMPT, SOLUTION, OTHER = ROLES["prompt"], ROLES["solution"], ROLES["other"]
TEMPLATES = [
    None,
    "{problem}\n\n{solution}",
    "### {problem} ###\n{solution}\n",
    "{problem}{solution}",
]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
)


@pytest.fixture(scope="session")
def problems(shared_data: Path) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in (shared_data / "gsm8k" / "train.jsonl").open()]
    return [{"problem": row["question"], "solution": row["answer"]} for row in rows[:120]]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def encode(
    block: bytes, recipe: Recipe, tokenizer: Tokenizer, append_eod: bool = True
) -> tuple[Texts, EncodedDocuments]:
    texts = make_texts(scan_block(block, [recipe]), recipe, tokenizer)
    encoder = tokenizer.open_encoder()
    return texts, encode_texts(texts, tokenizer, encoder, append_eod=append_eod)


def by_document(encoded: EncodedDocuments) -> list[tuple[list[int], list[int]]]:
    """(tokens, roles) of each document; no roles are `other`."""
    roles = encoded.roles
    if roles is None:
        roles = np.full(len(encoded.tokens), OTHER, np.uint8)
    assert len(roles) == len(encoded.tokens) == encoded.lengths.sum()
    cuts = np.cumsum(encoded.lengths)[:-1]
    return [
        (tokens.tolist(), spoken.tolist())
        for tokens, spoken in zip(
            np.split(encoded.tokens, cuts), np.split(roles, cuts), strict=True
        )
    ]


@pytest.mark.parametrize("template", TEMPLATES)
def test_solution_tokens_spell_the_solution(
    tokenizer: Tokenizer, problems: list[dict[str, str]], template: str | None
) -> None:
    recipe = Recipe(template=template)
    texts, encoded = encode(lines(problems), recipe, tokenizer)
    assert len(texts.rows) == len(problems)
    ends_with = "\n" if template and template.endswith("\n") else ""
    for row, text, (tokens, roles) in zip(
        problems, texts.strings(), by_document(encoded), strict=True
    ):
        assert tokens[-1] == tokenizer.eod_id
        assert roles[-1] == SOLUTION
        assert (tokens[0] == tokenizer.bos_id) == tokenizer.adds_bos
        change = roles.index(SOLUTION)  # one prompt, then one solution
        assert roles == [PROMPT] * change + [SOLUTION] * (len(roles) - change)
        prompt, solution = tokenizer.decode(tokens[:change]), tokenizer.decode(tokens[change:-1])
        spelt = row["solution"] + ends_with
        if template == TEMPLATES[-1]:  # a token may hold letters of both: it is the solution's
            assert solution.endswith(spelt)
            assert len(solution) - len(spelt) < 12
        else:
            assert solution.removeprefix(" ") == spelt
            assert text.startswith(prompt.rstrip(" "))
        assert tokenizer.decode(tokens[:-1]) == text


def test_loss_on_solutions_end_to_end(
    tokenizer: Tokenizer,
    problems: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, encoded = encode(lines(problems), Recipe(), tokenizer)
    documents = by_document(encoded)
    write_index(
        tmp_path / "gsm8k",
        [tokens for tokens, _ in documents],
        roles=[roles for _, roles in documents],
        tokenizer=tokenizer.describe(),
    )
    monkeypatch.chdir(tmp_path)
    road = tmp_path / "r.yaml"
    road.write_text(
        "name: r\nblend:\n  sequence_length: 1024\n  validation: 0\n  stages:\n"
        "    - {name: sft, mix: {p: {epochs: 1, path: gsm8k, loss: solution, pack: whole}}}\n"
    )
    reader = PlanReader(load_plan(run_blend(Road.load(road, runs=tmp_path / "runs")).folder), "sft")
    batch = reader.batch(range(reader.num_samples))
    found = []
    for labels, mask, ids in zip(
        batch.labels_BS, batch.loss_mask_BS, batch.document_ids_BS, strict=True
    ):
        for document in np.unique(ids[mask == 1]):
            counted = labels[(mask == 1) & (ids == document)].tolist()
            assert counted[-1] == tokenizer.eod_id  # how to stop is learnt
            found.append(tokenizer.decode(counted[:-1]).removeprefix(" "))
    assert sorted(found) == sorted(row["solution"] for row in problems)


@pytest.fixture
def chatting(tokenizer: Tokenizer, tmp_path: Path) -> Tokenizer:
    """The same tokenizer with a chat template beside it."""
    folder = tmp_path / "chatting"
    folder.mkdir()
    tokenizer.save(folder)
    config = folder / "tokenizer_config.json"
    content = json.loads(config.read_text()) if config.is_file() else {}
    config.write_text(json.dumps(content | {"chat_template": CHAT_TEMPLATE}))
    return load_tokenizer(folder)


MIXED = [
    {"text": "Plain text, and é."},
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4 é"}]},
    {"problem": "What is 1 + 1?", "solution": "It is 2."},
    {"text": ""},
    {
        "messages": [
            {"role": "user", "content": "Well?"},
            {"role": "assistant", "content": "I am done"},
            {"role": "user", "content": "ok"},
        ]
    },
    {"text": "More plain text."},
]


def test_chats_among_other_records(chatting: Tokenizer) -> None:
    texts, encoded = encode(lines(MIXED), Recipe(), chatting)
    assert texts.rows.tolist() == [0, 1, 2, 4, 5]
    documents = by_document(encoded)
    for number, (tokens, _) in enumerate(documents):
        chat = number in (1, 3)
        assert tokens.count(chatting.eod_id) == (2 if number == 3 else 1)
        assert tokens[-1] == chatting.eod_id
        assert tokens.count(chatting.bos_id) == (chat or chatting.adds_bos)
        assert (tokens[0] == chatting.bos_id) == (chat or chatting.adds_bos)
    for number in (0, 4):
        assert set(documents[number][1]) == {OTHER}
    tokens, roles = documents[1]
    solution = [t for t, role in zip(tokens, roles, strict=True) if role == SOLUTION]
    assert solution[-1] == chatting.eod_id
    assert chatting.decode(solution[:-1]).strip() == "4 é"
    tokens, roles = documents[3]
    solution = [t for t, role in zip(tokens, roles, strict=True) if role == SOLUTION]
    assert chatting.decode(solution).strip() == "I am done"
    assert solution[-1] == chatting.eod_id
    assert roles[-1] == PROMPT  # the user had the last word


def test_a_document_is_the_same_in_every_block(chatting: Tokenizer) -> None:
    _, whole = encode(lines(MIXED), Recipe(), chatting)
    alone = [encode(lines([row]), Recipe(), chatting)[1] for row in MIXED]
    assert by_document(whole) == [d for e in alone if len(e.lengths) for d in by_document(e)]
    for append_eod in (True, False):
        _, encoded = encode(lines(MIXED[1:2]), Recipe(chat=True), chatting, append_eod)
        assert by_document(encoded) == by_document(alone[1])  # the template wrote the EOD itself
    _, bare = encode(lines(MIXED[:1]), Recipe(), chatting, append_eod=False)
    assert by_document(bare)[0][0] == by_document(alone[0])[0][0][:-1]


def test_documents_that_differ_from_the_reference_are_found(chatting: Tokenizer) -> None:
    texts, encoded = encode(lines(MIXED), Recipe(), chatting)

    def compare(found: EncodedDocuments, at_least_bytes: int) -> tuple[int, list[int]]:
        count, rows = differing_documents(
            texts, found, chatting, append_eod=True, at_least_bytes=at_least_bytes
        )
        return count, rows.tolist()

    assert compare(encoded, 10**9) == (5, [])
    assert compare(encoded, 1) == (1, [])
    wrong = encoded.tokens.copy()
    wrong[encoded.lengths[:2].sum() + 1] += 1
    planted = EncodedDocuments(**{**vars(encoded), "tokens": wrong})
    assert compare(planted, 10**9) == (5, [2])
    assert compare(planted, 1) == (1, [])
    lengths = encoded.lengths.copy()
    lengths[3:] += [-1, 1]
    planted = EncodedDocuments(**{**vars(encoded), "lengths": lengths})
    assert compare(planted, 10**9) == (5, [4, 5])
