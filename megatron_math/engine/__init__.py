"""Engine: prompts in, texts out.

Reads: a Hugging Face model folder (`hf`, or `vllm`), a Megatron-Core checkpoint (`megatron`), an
OpenAI-compatible server (`server`), or a script written by a test (`scripted`).
Writes: `answers.jsonl`, where an engine's answers are kept (`kept`); else nothing.
Promise: greedy answers come in prompt order and do not depend on who shares the batch. What was
answered and kept is never asked again.
"""
