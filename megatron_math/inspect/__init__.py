"""Look into what lies on disk: an index, a plan, a batch, a checkpoint.

Reads: those files, and the tokenizer beside them. Writes: nothing.
Promise: what is shown is what training sees; damage is named and never hidden.
"""
