"""Curate: take out what came before, nearly or exactly, and what the benchmarks hold.

Reads: files of records, by source; the rows of every benchmark that will be scored.
With `influence`, also target records and a warm-up road's checkpoints (influence/).
Writes: 20_curate/<source>.jsonl, drops/<source>.jsonl with a reason for each record, stats.json,
and allowed/hits.jsonl where hits were let pass.
Promise: kept + dropped = read; a benchmark row that cannot be read or searched stops the run.
"""
