"""Megatron-LM's preprocessing, written after its description: the peer of tools/preprocess_data.py.

A multiprocessing.Pool whose initializer loads the tokenizer, imap over the lines of the file in
chunks of 32, json.loads, one text at a time, EOD appended to what is not empty, ids pickled back
to the parent, which hands each list to megatron-core's own IndexedDatasetBuilder.

Where it differs, it is faster than the original: the engines are called directly (`tokenizers`,
`sentencepiece`, `tiktoken`), not through core's wrappers, and nothing of megatron.training is
imported.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable

from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

CHUNK = 32
LOG_INTERVAL = 1000
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
Encode = Callable[[str], list[int]]


def load(kind: str, model: str) -> Encode:
    if kind == "HuggingFaceTokenizer":
        import tokenizers

        engine = tokenizers.Tokenizer.from_file(model)
        return lambda text: engine.encode(text, add_special_tokens=False).ids
    if kind == "SentencePieceTokenizer":
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=model).encode_as_ids
    if kind == "TikTokenizer":
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        ranks = load_tiktoken_bpe(model)
        engine = tiktoken.Encoding(
            "llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        return lambda text: engine.encode(text, disallowed_special=())
    raise ValueError(kind)


class Encoder:
    encode_text: Encode

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def initializer(self) -> None:
        Encoder.encode_text = staticmethod(
            load(self.args.tokenizer_type, self.args.tokenizer_model)
        )

    def encode(self, line: str) -> tuple[dict[str, list[int]], dict[str, list[int]], int]:
        text = json.loads(line)["text"]
        ids = Encoder.encode_text(text)
        lengths = []
        if ids:
            ids.append(self.args.eod)
            lengths.append(len(ids))
        return {"text": ids}, {"text": lengths}, len(line)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--output-prefix", required=True)
    parser.add_argument("--tokenizer-type", required=True)
    parser.add_argument("--tokenizer-model", required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--eod", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    args = parser.parse_args()
    encoder = Encoder(args)
    prefix = f"{args.output_prefix}_text_document"
    with (
        open(args.input, encoding="utf-8") as lines,
        multiprocessing.Pool(args.workers, initializer=encoder.initializer) as pool,
    ):
        builder = IndexedDatasetBuilder(prefix + ".bin", dtype=DType.optimal_dtype(args.vocab_size))
        num_characters = 0
        for count, (ids, lengths, size) in enumerate(pool.imap(encoder.encode, lines, CHUNK), 1):
            num_characters += size
            for key in ids:
                builder.add_document(ids[key], lengths[key])
            if count % LOG_INTERVAL == 0:
                print(f"{count} documents, {num_characters} characters", file=sys.stderr)
        builder.finalize(prefix + ".idx")
        pool.close()
        pool.join()


if __name__ == "__main__":
    main()
