"""Megatron-Core distributed checkpoints (`torch_dist`): write, verify, choose, read.

`folders` knows files and names and needs no torch; `state` moves tensors through megatron.core.
"""
