"""Tiny random models as Hugging Face folders, one for each published family."""

from pathlib import Path
from typing import Any

# 300 is no multiple of 128, so every conversion pads and un-pads the vocabulary.
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama2": {"model_type": "llama"},
    "llama3": {"model_type": "llama", "num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE},
    "llama3-tied": {"model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "codellama": {"model_type": "llama", "rope_parameters": {"rope_theta": 1e6}},
    "deepseekmath": {"model_type": "llama", "num_hidden_layers": 3, "rms_norm_eps": 1e-6},
    "mistral-window": {
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "head_dim": 24,
        "sliding_window": 8,
    },
    "mistral-v0.3": {
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "sliding_window": None,
        "rope_parameters": {"rope_theta": 1e6},
    },
    "mixtral": {
        "model_type": "mixtral",
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2, "rms_norm_eps": 1e-6},
    "qwen2-tied": {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True},
}


def make_hf_folder(
    folder: Path, family: str, dtype: str = "float32", max_shard_size: str = "5GB", **changes: Any
) -> Path:
    """Save a random model of the family. Every tensor is random, norms and biases too, and logits
    are of size 1 to 10, so that no exchanged or forgotten tensor can pass for equal."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = AutoConfig.for_model(**{**SIZES, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + 0.15 * torch.randn(parameter.shape, generator=generator))
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
