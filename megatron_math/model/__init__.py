"""A ModelConfig in, a Megatron-Core GPT out.

Reads: presets/*.yaml. Writes: nothing. Promise: config, presets and FLOPs load without torch.
"""
