"""Reads: a blend plan, start weights. Writes: checkpoints, metrics, validation losses.
Promise: every layout computes the same losses, and a run that was killed and started again ends
with the bytes of the unbroken one.
"""
