"""litgpt's own pre-training, `litgpt.pretrain.main`: its model, torch.compile, loop and AdamW.

Its data module and logger are ours; --plain leaves torch.compile out.
"""

import shutil
from collections.abc import Callable
from typing import Any

import lightning as L
import litgpt.pretrain
import torch
from case import Case, given, say
from lightning.fabric.loggers.logger import Logger
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors.torch import load_file


class Steps(Logger):
    """Hands on what litgpt logs after every step."""

    name, version = "steps", 0

    def __init__(self, say: Callable[..., None]) -> None:
        self.say = say

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.say(metrics["step"], metrics["loss"])

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class Rows(litgpt.pretrain.DataModule):
    """The case's rows, in order."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.rows, self.size = torch.from_numpy(case.rows).long(), case.settings["batch"]

    def connect(self, *_: Any, **__: Any) -> None:
        pass

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.rows, batch_size=self.size)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.rows[: self.size], batch_size=self.size)  # type: ignore[arg-type]


def train(case: Case, say: Callable[..., None], *, compiled: bool) -> None:
    s, m = case.settings, case.settings["model"]
    config = Config(
        name="bench",
        block_size=s["sequence_length"],
        vocab_size=m["vocab_size"],
        padded_vocab_size=m["vocab_size"],
        n_layer=m["num_layers"],
        n_head=m["num_attention_heads"],
        n_query_groups=m["num_attention_heads"],
        n_embd=m["hidden_size"],
        intermediate_size=m["ffn_hidden_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=m["norm_eps"],
        mlp_class_name="LLaMAMLP",
        rope_base=int(m["rope_base"]),
    )
    out = case.folder / "litgpt"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(case.hf / "model.safetensors"))
    torch.save(weights, out / "lit_model.pth")
    if not compiled:
        torch.compile = lambda model, **_: model  # type: ignore[assignment]
    fabric = L.Fabric(
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if case.dtype == "bf16" else "32-true",
        loggers=[Steps(say)],
    )
    fabric.launch()
    litgpt.pretrain.save_checkpoint = lambda *_, **__: None  # nothing is measured after the loop
    litgpt.pretrain.main(
        fabric=fabric,
        devices=1,
        seed=1,
        initial_checkpoint_dir=out,
        resume=False,
        config=config,
        data=Rows(case),
        out_dir=out,
        tokenizer_dir=None,
        tokenizer=None,
        train=TrainArgs(
            save_interval=None,
            log_interval=1,
            global_batch_size=s["batch"],
            micro_batch_size=s["batch"],
            max_tokens=case.steps * s["batch"] * s["sequence_length"],
            max_norm=s["clip_grad"],
            min_lr=s["lr"],
            lr_warmup_steps=0,
            tie_embeddings=False,
        ),
        eval=EvalArgs(
            interval=10**9, max_iters=1, initial_validation=False, final_validation=False
        ),
        optimizer={
            "class_path": "torch.optim.AdamW",
            "init_args": {
                "lr": s["lr"],
                "betas": (s["adam_beta1"], s["adam_beta2"]),
                "eps": s["adam_eps"],
                "weight_decay": s["weight_decay"],
            },
        },
    )


if __name__ == "__main__":
    case, flags = given("--plain")
    train(case, say, compiled=not flags.plain)
