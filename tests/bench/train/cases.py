"""Cases: a model of Llama's shape, its first weights, rows of tokens, and a road for our side.

Documents are one token longer than the sequence, so that every row is one document: no side
computes attention that another skips. Tokens follow Zipf's law: there is something to learn.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_math import cli
from megatron_math.model.config import ModelConfig

REPOSITORY = Path(__file__).resolve().parents[3]
LR, CLIP, DECAY, BETAS, EPS = 1e-3, 1.0, 0.1, (0.9, 0.95), 1e-8


@dataclass(frozen=True)
class Shape:
    """A case's sizes. batch: rows of a step, in one micro-batch."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    sequence_length: int
    batch: int

    def config(self) -> ModelConfig:
        return ModelConfig(**self.model(), max_sequence_length=self.sequence_length)

    def flops(self) -> float:
        """Of a step, causal attention counted half."""
        tokens = self.batch * self.sequence_length
        return tokens * self.config().flops_per_token(self.sequence_length)

    def model(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden,
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "ffn_hidden_size": self.ffn,
            "vocab_size": self.vocabulary,
            "norm_eps": 1e-5,
            "rope_base": 10000.0,
        }


SHAPES = {
    "tiny": Shape(64, 2, 4, 128, 512, 64, 4),
    "nano-d6": Shape(384, 6, 6, 1024, 32_000, 512, 8),
    "llama-34m": Shape(512, 8, 8, 1408, 8_192, 1024, 4),
}


def make_case(folder: Path, shape: Shape, steps: int) -> Path:
    """The case's folder, made anew unless it is there with the same sizes."""
    train = {
        "global_batch_size": shape.batch,
        "micro_batch_size": shape.batch,
        "lr": LR,
        "schedule": "constant",
        "warmup_share": 0,
        "weight_decay": DECAY,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_eps": EPS,
        "clip_grad": CLIP,
        "validation_samples": 0,
    }
    settings = {
        "flops": shape.flops(),
        "model": shape.model(),
        "sequence_length": shape.sequence_length,
        "batch": shape.batch,
        "steps": steps,
        "train": train,
        **{name: train[name] for name in train if name in (
            "lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps", "clip_grad"
        )},
    }  # fmt: skip
    done = folder / "case.json"
    if done.is_file() and json.loads(done.read_text()) == settings:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_weights(folder / "hf", shape)
    _write_index(folder / "corpus", shape, steps)
    road = {
        "name": "case",
        "base": {"hf": str(folder / "hf")},
        "blend": {
            "sequence_length": shape.sequence_length,
            "validation": 0,
            "tokens": steps * shape.batch * shape.sequence_length,
            "mix": {"corpus": {"share": 1, "path": str(folder / "corpus"), "pack": "whole"}},
        },
        "precision": {"dtype": "fp32", "spec": "torch"},
        "train": train,
        "checkpoint": {"interval": 1_000_000, "keep": 1},
    }
    (folder / "road.yaml").write_text(json.dumps(road, indent=1))  # YAML, too
    words = ["run", folder / "road.yaml", "--runs", folder / "runs", "--to", "blend"]
    if cli.main([str(word) for word in words]):
        raise RuntimeError(f"the case {folder.name} cannot be made")
    np.save(folder / "rows.npy", _planned_rows(folder, steps * shape.batch))
    done.write_text(json.dumps(settings, indent=1))
    return folder


def _write_weights(folder: Path, shape: Shape) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1234)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.sequence_length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _write_index(prefix: Path, shape: Shape, steps: int) -> None:
    from megatron_math.native.reference_index_writer import ReferenceIndexWriter

    num_documents, length = steps * shape.batch, shape.sequence_length + 1
    generator = np.random.default_rng(5)
    ranks = np.arange(1, shape.vocabulary + 1)
    tokens = generator.choice(
        shape.vocabulary, num_documents * length, p=(1 / ranks) / (1 / ranks).sum()
    )
    writer = ReferenceIndexWriter(prefix, shape.vocabulary)
    writer.add_documents(tokens.astype(np.uint16), np.full(num_documents, length, dtype=np.int32))
    writer.finish()


def _planned_rows(folder: Path, num_rows: int) -> np.ndarray:
    """int32 [R, S + 1]: tokens of our plan in its order, for the peers."""
    from megatron_math.dataset.plan import load_plan
    from megatron_math.dataset.reader import PlanReader

    reader = PlanReader(load_plan(folder / "runs" / "case" / "40_blend"), 0)
    assert reader.num_samples == num_rows, (reader.num_samples, num_rows)
    batch = reader.batch(np.arange(num_rows))
    assert (batch.loss_mask_BS == 1).all(), "a token without loss"
    assert (batch.document_ids_BS == batch.document_ids_BS[:, :1]).all(), "two documents in a row"
    assert (batch.tokens_BS[:, 1:] == batch.labels_BS[:, :-1]).all()
    return np.concatenate([batch.tokens_BS, batch.labels_BS[:, -1:]], axis=1).astype(np.int32)
