"""Hugging Face folders to Megatron-Core checkpoints and back; a road's 00_base and 60_export.

Reads: config.json, safetensors, tokenizer files; or a torch_dist checkpoint with its model.json.
Writes: the other of the two, with a receipt: the largest logit difference against transformers.
Promise: whole or absent; every tensor used, every parameter filled, padding dropped on export.
"""
