"""Our checkpoints are Megatron-Core's, and core's indexes are ours: no private dialect."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from train_roads import metrics

from megatron_math.base.errors import StoppedOnRequest
from megatron_math.base.road import Road
from megatron_math.blend.run import run as blend
from megatron_math.checkpoint.folders import open_checkpoint
from megatron_math.train.run import run

SHORT = "train.stop_after=4"
# Nothing of megatron_math is imported here, and nothing is patched.
PLAIN_CORE = """
import sys
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import random as tp_random
from megatron.core.transformer import TransformerConfig

hf_file, store, *checkpoints = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
parallel_state.initialize_model_parallel()
config = TransformerConfig(
    num_layers=4, hidden_size=64, num_attention_heads=4, num_query_groups=2, kv_channels=16,
    ffn_hidden_size=160, gated_linear_unit=True, activation_func=torch.nn.functional.silu,
    add_bias_linear=False, normalization="RMSNorm", layernorm_epsilon=1e-6,
    use_cpu_initialization=True, params_dtype=torch.float32, gradient_accumulation_fusion=False,
)
from safetensors.torch import load_file
weights = load_file(hf_file)
for checkpoint in checkpoints:
    model = GPTModel(
        config, get_gpt_layer_local_spec(normalization="RMSNorm"), vocab_size=512,
        max_sequence_length=64, position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    )
    state = dist_checkpointing.load({"model": model.sharded_state_dict()}, checkpoint)
    model.load_state_dict(state["model"], strict=False)
    own = dict(model.named_parameters())
    drift = (own["output_layer.weight"][:500] - weights["lm_head.weight"]).abs().max().item()
    layers = [own[f"decoder.layers.{i}.mlp.linear_fc2.weight"] for i in range(4)]
    same = all(
        torch.equal(layer, weights[f"model.layers.{i}.mlp.down_proj.weight"])
        for i, layer in enumerate(layers)
    )
    print("drift", drift, "same", same)
assert "megatron_math" not in sys.modules
"""


def load_with_plain_core(
    hf_folder: Path, tmp_path: Path, *checkpoints: Path
) -> list[tuple[float, bool]]:
    """Largest difference of the head to a Hugging Face folder's, and whether all else is equal, of
    each checkpoint; in one process of plain core."""
    script = tmp_path / "plain_core.py"
    script.write_text(PLAIN_CORE)
    weights, store = hf_folder / "model.safetensors", tmp_path / "store"
    command = [sys.executable, "-W", "ignore", str(script), str(weights), str(store)]
    result = subprocess.run(
        [*command, *map(str, checkpoints)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    told = [line.split() for line in result.stdout.splitlines() if line.startswith("drift ")]
    assert len(told) == len(checkpoints)
    return [(float(words[1]), words[3] == "True") for words in told]


def test_plain_core_loads_our_checkpoints(prepared: Path, copy_of, tmp_path: Path) -> None:
    base = prepared / "runs/road/00_base/checkpoint/release"
    road = copy_of("trained", "parallel.tensor=2", "train.validation_samples=0", SHORT)
    with pytest.raises(StoppedOnRequest):
        run(road)
    last = open_checkpoint(road.folder("50_train") / "checkpoints").folder
    of_base, (drift, same) = load_with_plain_core(prepared / "hf", tmp_path, base, last)
    assert of_base == (0.0, True)
    assert not same  # it was trained ...
    assert 1e-4 < drift < 0.2  # ... and is still that model


def test_an_index_of_cores_builder_trains(copy_of, tmp_path: Path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "core_text_document.bin"), dtype=np.uint16)
    generator = np.random.default_rng(0)
    for _ in range(300):
        tokens = torch.from_numpy(generator.integers(4, 60, generator.integers(5, 90)))
        builder.add_document(tokens, [len(tokens)])
    builder.finalize(str(tmp_path / "core_text_document.idx"))

    mix = f"{{core: {{share: 1, path: {tmp_path}/core_text_document}}}}"
    road: Road = copy_of("core", f"blend.mix={mix}", "train.validation_samples=8")
    blend(road)
    run(road)
    rows = metrics(road)
    assert rows[-1]["loss/core"] < 0.99 * rows[0]["loss/core"]
