"""A tiny Llama that is trained to know some answers by heart: a real model for real engines."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path


def learn(
    folder: Path,
    answers: Mapping[str, str],
    others: Iterable[str] = (),
    *,
    lr: float,
    most_steps: int,
    loss: float = math.inf,
    **shape: int,
) -> Path:
    """Train until every answer (prompt -> answer) is known; returns the Hugging Face folder.

    others: texts whose words the tokenizer knows, too. loss: go on until it is below that.
    shape: of the model's config.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    text = "\n".join([*answers, *answers.values(), *others])
    words = sorted(set(re.findall(r"\s|\w+|[^\w\s]", text)))
    vocabulary = {"<s>": 0, "</s>": 1} | {word: 2 + i for i, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|\w+|[^\w\s]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, **shape)
    )
    rows = [
        (tokenizer(prompt)["input_ids"], [*tokenizer(answer)["input_ids"], 1])
        for prompt, answer in answers.items()
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids_BT = torch.ones(len(rows), longest, dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, -100)
    for place, (prompt, answer) in enumerate(rows):
        ids_BT[place, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        labels_BT[place, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    known = False
    for _ in range(most_steps):
        output = model(ids_BT, labels=labels_BT)
        right_BT = output.logits[:, :-1].argmax(-1) == labels_BT[:, 1:]
        known = bool((right_BT | (labels_BT[:, 1:] < 0)).all())
        if known and output.loss.item() < loss:
            break
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert known, "the model has not learnt its answers"
    model.save_pretrained(folder)
    return folder
