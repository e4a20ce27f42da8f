"""Reads: indexes and the road's `blend` section.

Writes: `40_blend/plan.json` and one order array a stage.
Promise: every source is within one sample of its share of tokens at every prefix of the run.
"""
