"""A bare loop around Megatron-Core: its schedule, data parallel wrapper and optimizer, no more.

--local: core's own local layers, output layer and cross entropy; without it, the model of this
project, so that what is left is the price of our loop. B batch, S sequence.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from case import Case, given, say
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_math.base.files import read_json
from megatron_math.checkpoint.folders import open_checkpoint
from megatron_math.checkpoint.state import load_weights
from megatron_math.device.grid import Grid
from megatron_math.device.open import open_device
from megatron_math.model.build import build_model, transformer_config
from megatron_math.model.config import ModelConfig
from megatron_math.train.config import TrainConfig
from megatron_math.train.optimizer import build_optimizer, wrap_for_training


def forward_step(iterator: Any, model: Any, *, position_ids_BS: torch.Tensor, local: bool) -> Any:
    tokens_BS, labels_BS = next(iterator)
    # With a mask our model makes output layer and loss in one, as in our loop.
    mask = {} if local else {"loss_mask": torch.ones(labels_BS.shape)}
    loss_BS = model(tokens_BS, position_ids_BS, None, labels=labels_BS, **mask)

    def loss_sum(loss_BS: torch.Tensor) -> Any:
        total, count = loss_BS.sum(), torch.tensor(loss_BS.numel(), dtype=torch.int)
        return total, count, total.detach() / count

    return loss_BS, loss_sum


def local_model(config: ModelConfig, dtype: torch.dtype, length: int, ours: Any) -> GPTModel:
    """Core's local layers with the weights of `ours`."""
    model = GPTModel(
        config=transformer_config(config, grid=Grid(), dtype=dtype),
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=config.padded_vocab_size,
        max_sequence_length=length,
        position_embedding_type="rope",
        rotary_base=int(config.rope_base),
        share_embeddings_and_output_weights=False,
    )
    weights = {n: t for n, t in ours.state_dict().items() if t is not None and "_extra" not in n}
    missing, unknown = model.load_state_dict(weights, strict=False)
    lost = [name for name in missing if "_extra" not in name]
    assert not lost, lost
    assert not unknown, unknown
    return model


def train(case: Case, say: Callable[..., None], *, local: bool) -> None:
    s = case.settings
    length, dtype = s["sequence_length"], {"fp32": torch.float32, "bf16": torch.bfloat16}
    start = open_checkpoint(case.folder / "runs" / "case" / "00_base" / "checkpoint").folder
    config = ModelConfig.model_validate(read_json(start / "model.json"))
    with open_device(Grid(), 1):
        models: list[Any] = list(
            build_model(
                config, grid=Grid(), dtype=dtype[case.dtype], spec="torch", sequence_length=length
            )
        )
        load_weights(models, start)
        if local:
            models = [local_model(config, dtype[case.dtype], length, models[0])]
        models = wrap_for_training(models, dtype[case.dtype], overlap=False)
        optimizer = build_optimizer(
            models, TrainConfig.model_validate(s["train"]), dtype[case.dtype], overlap=False
        )
        for group in optimizer.param_groups:  # as a scheduler of core's does
            group["weight_decay"] = s["weight_decay"] * group.get("wd_mult", 1.0)
        step_function = get_forward_backward_func()
        position_ids_BS = torch.arange(length).expand(s["batch"], length)
        for step, batch in enumerate(case.batches(), 1):
            models[0].zero_grad_buffer()
            optimizer.zero_grad()
            report = step_function(
                forward_step_func=partial(
                    forward_step, position_ids_BS=position_ids_BS, local=local
                ),
                data_iterator=iter([batch]),
                model=models,
                num_microbatches=1,
                seq_length=length,
                micro_batch_size=s["batch"],
                forward_only=False,
            )
            _, grad_norm, _ = optimizer.step()
            say(step, float(report[0]), float(grad_norm))


if __name__ == "__main__":
    case, flags = given("--local")
    train(case, say, local=flags.local)
