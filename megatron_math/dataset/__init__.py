"""Reads: `.bin/.idx` indexes (ours or megatron-core's) and a blend's plan folder.

Writes: nothing.
Promise: sample n of a plan is the same tokens, whatever the batch size, the run length or the rank.
"""
