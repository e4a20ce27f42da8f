"""The index room: documents to tokens.

Reads: JSONL (plain, .gz, .zst) and parquet, a tokenizer. Writes: 30_index/tokenizer/ and, for each
source, <source>_text_document.{bin,idx,ids,json}. Promise: the same bytes for every number of
workers, and byte for byte what megatron-core's own builder writes for the same ids.
"""
