"""A toy world whose useful texts are known: pairs of letters under ten secret codes.

A text is a row of letters, each followed by its letter under the code of the text. Every letter is
as frequent in one code as in another, so only what a text teaches tells it from the others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from megatron_math.curate.influence.gradients import AdamState, TextGradients
from megatron_math.curate.influence.projection import Projection
from megatron_math.curate.influence.texts import Text
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.model.build import build_model
from megatron_math.model.config import ModelConfig
from megatron_math.model.gpt import GPT
from megatron_math.model.lora import adapted_maps, is_adapter
from megatron_math.model.lora_config import LoraConfig

NUM_LETTERS, NUM_CODES, PAIRS = 16, 10, 12
BETAS, EPS = (0.9, 0.95), 1e-8
MODEL = ModelConfig(
    hidden_size=64, num_layers=2, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=96,
    vocab_size=2 * NUM_LETTERS, max_sequence_length=64,
)  # fmt: skip


@contextmanager
def small_model(
    lora: LoraConfig | None, *, seed: int = 0, config: ModelConfig = MODEL
) -> Iterator[GPT]:
    """A model with fresh weights in a process of its own; adapters do something at once."""
    with open_device(Grid.model_validate({}), seed):
        (model,) = build_model(
            config,
            grid=Grid.model_validate({}),
            dtype=torch.float32,
            spec="torch",
            sequence_length=config.max_sequence_length,
            lora=lora,
            seed=seed,
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, _, adapted in adapted_maps(model):
                drawn = torch.randn(adapted.lora_B.shape, generator=generator)
                adapted.lora_B.copy_(0.05 * drawn)
        yield model


def random_texts(number: int, *, longest: int, seed: int = 0) -> list[Text]:
    """Texts of many lengths without any sense; some carry loss only behind their beginning."""
    draw = np.random.default_rng(seed)
    return [
        Text(draw.integers(0, MODEL.vocab_size, length), first=int(draw.integers(1, length)))
        for length in draw.integers(3, longest, number)
    ]


def random_moments(model: GPT, *, seed: int = 0) -> AdamState:
    """An optimizer's state of about the size of gradients."""
    generator = torch.Generator().manual_seed(seed)
    moments: dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            first = 1e-3 * torch.randn(parameter.numel(), generator=generator)
            second = 1e-5 * torch.rand(parameter.numel(), generator=generator)
            moments[parameter] = first, second
    return AdamState(*BETAS, EPS, 7, moments)


def mean_loss(model: GPT, text: Text) -> torch.Tensor:
    """Of one text alone, through plain logits."""
    ids = torch.from_numpy(text.ids)
    positions = torch.arange(len(ids) - 1)[None]
    logits = model(ids[None, :-1], positions, None)[0, :, : model.model_config.vocab_size]
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[1:], reduction="none")
    return losses[text.first - 1 :].mean()


def one_at_a_time(
    model: GPT, texts: Sequence[Text], adam: AdamState | None, projection: Projection
) -> np.ndarray:
    """The plain way: a backward pass a text, into the adapters' own gradients."""
    factors = [parameter for name, parameter in model.named_parameters() if is_adapter(name)]
    rows = []
    for text in texts:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_adapter(name))
            parameter.grad = None
        mean_loss(model, text).backward()
        for factor in factors:
            assert factor.grad is not None
            step = factor.grad.flatten()[:, None]
            projection.add(step if adam is None else adam.step(factor, step))
        row = projection.finish()[0].detach()
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@dataclass(frozen=True)
class World:
    """Ten codes; the targets and a tenth of the pool are written in the first one."""

    seed: int

    def texts(self, codes: Sequence[int], *, seed: int) -> list[Text]:
        """A text in each code."""
        secret = np.random.default_rng(self.seed)
        table = np.stack([secret.permutation(NUM_LETTERS) for _ in range(NUM_CODES)])
        draw = np.random.default_rng((self.seed, seed))
        found = []
        for code in codes:
            letters = draw.integers(0, NUM_LETTERS, PAIRS)
            pairs = np.stack([letters, NUM_LETTERS + table[code][letters]], axis=1)
            found.append(Text(pairs.flatten().astype(np.int64)))
        return found

    def pool(self, number: int) -> tuple[list[Text], np.ndarray]:
        """Texts in all codes alike, and which of them are useful."""
        codes = np.random.default_rng(self.seed + 1).permutation(np.arange(number) % NUM_CODES)
        return self.texts(codes.tolist(), seed=1), codes == 0

    def targets(self, number: int, *, seed: int = 2) -> list[Text]:
        return self.texts([0] * number, seed=seed)


def train_on(
    model: GPT, texts: Sequence[Text], *, steps: int, lr: float, seed: int, adapters: bool
) -> AdamState:
    """Plain Adam on texts of equal length, 16 a step; the state that it ends with."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name) == adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, betas=BETAS, eps=EPS, weight_decay=0)
    draw = np.random.default_rng(seed)
    for _ in range(steps):
        batch = [texts[n] for n in draw.integers(0, len(texts), 16)]
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    moments: dict[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] = {
        parameter: (
            optimizer.state[parameter]["exp_avg"].flatten(),
            optimizer.state[parameter]["exp_avg_sq"].flatten(),
        )
        for parameter in trained
    }
    return AdamState(*BETAS, EPS, steps, moments)


def loss_of(model: GPT, texts: Sequence[Text]) -> torch.Tensor:
    """Mean over all tokens of texts of equal length."""
    ids = torch.from_numpy(np.stack([text.ids for text in texts]))
    positions = torch.arange(ids.shape[1] - 1).expand(len(ids), -1)
    return model(ids[:, :-1], positions, None, labels=ids[:, 1:].contiguous()).mean()


def influence(
    model: GPT,
    pool: Sequence[Text],
    targets: Sequence[Text],
    adam: AdamState,
    dimension: int | None,
) -> np.ndarray:
    """The score of each text of the pool at this one checkpoint."""
    maker = TextGradients(model, Projection(dimension, "planted"), batch_tokens=2048)
    mean = maker.rows(targets, None).mean(0)
    return maker.rows(pool, adam) @ mean
