"""A bare loop in the manner of nanoGPT and nanochat, for a model of Llama's shape.

Plain modules, SDPA, fused AdamW, one cross entropy over all logits. The modules have the names
of the Hugging Face file, so that it loads as it is. B batch, S sequence, H hidden, N heads, D
head size.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from case import Case, given, say
from safetensors.torch import load_file
from torch import nn


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, hidden, bias=False)
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            p(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(x.shape))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, halves apart as in the Hugging Face files. x [B, N, S, D]."""
    one, two = x.chunk(2, dim=-1)
    return torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, hidden: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, ffn: int, eps: float) -> None:
        super().__init__()
        self.self_attn = Attention(hidden, heads)
        self.mlp = Mlp(hidden, ffn)
        self.input_layernorm = nn.RMSNorm(hidden, eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Tokens and labels [B, S] -> mean cross entropy."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, case: Case) -> None:
        super().__init__()
        m, length = case.settings["model"], case.settings["sequence_length"]
        hidden, heads, eps = m["hidden_size"], m["num_attention_heads"], m["norm_eps"]
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(m["vocab_size"], hidden),
                "layers": nn.ModuleList(
                    Layer(hidden, heads, m["ffn_hidden_size"], eps) for _ in range(m["num_layers"])
                ),
                "norm": nn.RMSNorm(hidden, eps),
            }
        )
        self.lm_head = nn.Linear(hidden, m["vocab_size"], bias=False)
        size = hidden // heads
        frequencies = 1.0 / m["rope_base"] ** (torch.arange(0, size, 2).float() / size)
        angles = torch.outer(torch.arange(length).float(), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        x = self.model["embed_tokens"](tokens)
        for layer in self.model["layers"]:
            x = layer(x, self.cos, self.sin)
        logits = self.lm_head(self.model["norm"](x)).float()
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def train(case: Case, say: Callable[..., None], *, compiled: bool) -> None:
    model: nn.Module = Llama(case)
    model.load_state_dict(load_file(case.hf / "model.safetensors"))
    s = case.settings
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": s["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas, eps = (s["adam_beta1"], s["adam_beta2"]), s["adam_eps"]
    optimizer = torch.optim.AdamW(groups, lr=s["lr"], betas=betas, eps=eps, fused=True)
    half = torch.autocast("cpu", torch.bfloat16) if case.dtype == "bf16" else nullcontext()
    if compiled:
        model = torch.compile(model)  # type: ignore[assignment]
    for step, (tokens, labels) in enumerate(case.batches(), 1):
        with half:
            loss = model(tokens, labels)
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(parameters, s["clip_grad"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        say(step, loss.item(), grad_norm.item())


if __name__ == "__main__":
    case, flags = given("--compiled")
    train(case, say, compiled=flags.compiled)
