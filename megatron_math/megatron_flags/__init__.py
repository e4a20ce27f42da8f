"""Megatron-LM's training flags <-> settings of a road: one table, both ways."""
