"""Write mathematical problems with step-by-step solutions and check every one of them.

Reads: the road's `synthesize` section. Writes: 10_synthesize/problems.jsonl, heldout.jsonl, drops/.
Promise: what is written has passed an independent check, and no held-out text was trained on.
"""
