"""Engine: prompts in, texts out.

Reads: a Hugging Face model folder (`hf`), or a script written by a test (`scripted`).
Writes: nothing.
Promise: greedy answers come in prompt order and do not depend on who shares the batch.
"""
