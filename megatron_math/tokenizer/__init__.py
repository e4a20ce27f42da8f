"""Text to ids and back, behind one interface.

Reads: tokenizer.json, SentencePiece .model, tiktoken .model. Writes: the same, and tokenizer.json.
Promise: `load_tokenizer` of what `save` wrote has the same fingerprint; no torch, no transformers.
"""

from megatron_math.tokenizer.interface import Tokenizer
from megatron_math.tokenizer.load import KINDS, load_tokenizer
from megatron_math.tokenizer.train import train_sentencepiece

__all__ = ["KINDS", "Tokenizer", "load_tokenizer", "train_sentencepiece"]
