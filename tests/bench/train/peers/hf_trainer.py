"""Hugging Face's Trainer on LlamaForCausalLM: its own optimizer, loop, collator of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from case import Case, given, say
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments


class Steps(TrainerCallback):
    """Hands on what Trainer logs after every step."""

    def __init__(self, say: Callable[..., None]) -> None:
        self.say = say

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.say(state.global_step, logs["loss"], logs["grad_norm"])


class InOrder(Trainer):
    """Rows as they stand: Trainer would shuffle them."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def train(case: Case, say: Callable[..., None]) -> None:
    s = case.settings
    # Labels for each of the S tokens; Trainer's own shift would leave the last one out.
    rows = [
        {"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]}
        for row in torch.from_numpy(case.rows).long()
    ]
    arguments = TrainingArguments(
        output_dir=str(case.folder / "hf_trainer"),
        per_device_train_batch_size=s["batch"],
        max_steps=case.steps,
        learning_rate=s["lr"],
        lr_scheduler_type="constant",
        weight_decay=s["weight_decay"],
        adam_beta1=s["adam_beta1"],
        adam_beta2=s["adam_beta2"],
        adam_epsilon=s["adam_eps"],
        max_grad_norm=s["clip_grad"],
        bf16=case.dtype == "bf16",
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    model = AutoModelForCausalLM.from_pretrained(case.hf, dtype=torch.float32)
    model.config.use_cache = False
    trainer = InOrder(model=model, args=arguments, train_dataset=rows, callbacks=[Steps(say)])
    trainer.train()


if __name__ == "__main__":
    case, _ = given()
    train(case, say)
