"""Influence: keep the records whose gradients point where those of target problems do.

The method of LESS (Xia et al. 2024), which JiuZhang3.0's value estimation builds on. Reads: the
candidates that the rest of the room left, target records, the checkpoints of a warm-up road trained
with adapters. Writes: 20_curate/influence/ (gradients by block, scores). Promise: the same
gradients for every number of shards; a block that is on disk is never computed again.
"""
