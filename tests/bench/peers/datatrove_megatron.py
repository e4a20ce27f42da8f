"""datatrove's writer of Megatron indexes on two local processes; run by datatrove's own Python.

The input folder holds one .jsonl a task, since datatrove shares work by files.
"""

import argparse

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input-folder", required=True)
    parser.add_argument("--output-folder", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--eos-token", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    args = parser.parse_args()
    LocalPipelineExecutor(
        [
            JsonlReader(args.input_folder),
            MegatronDocumentTokenizer(
                args.output_folder,
                tokenizer_name_or_path=args.tokenizer,
                eos_token=args.eos_token,
                batch_size=args.batch_size,
            ),
        ],
        tasks=2,
        workers=2,
        logging_dir=args.output_folder + "/logs",
    ).run()


if __name__ == "__main__":
    main()
