"""datatrove's n-gram decontamination and its MinHash deduplication on two local processes.

Run by datatrove's own Python (datatrove, spacy, xxhash). The input folder holds one .jsonl a task,
since datatrove shares work by files. The decontamination's index is made here of the rows' n-grams
by the filter's own normalisation, words and hash: datatrove's indexer takes rows from lighteval.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import ngrams, simplify_text

TASKS = 2


def execute(pipeline: list, logs: Path, tasks: int = TASKS) -> None:
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=TASKS, logging_dir=str(logs)).run()


def write_index(rows: Path, index: Path, config: NGramsDecontConfig) -> None:
    index.mkdir(parents=True)
    step = NGramsDecontFilter(str(index), config)
    hashes = set()
    for line in rows.read_text(encoding="utf-8").splitlines():
        words = step.tokenizer.word_tokenize(
            simplify_text(json.loads(line)["text"], config.norm_config)
        )
        hashes |= {step.hash_func(" ".join(run)) for run in ngrams(words, config.n_grams)}
    np.array(list(hashes), config.hash_config.np_descr).tofile(index / "rows.index.hashes")


def decontaminate(source: Path, out: Path, rows: Path) -> None:
    config = NGramsDecontConfig(n_grams=13, find_query_ngrams=True)
    write_index(rows, out / "index", config)
    execute(
        [
            JsonlReader(str(source)),
            NGramsDecontFilter(
                str(out / "index"),
                config,
                exclusion_writer=JsonlWriter(str(out / "drops"), compression=None),
            ),
            JsonlWriter(str(out / "kept"), compression=None),
        ],
        out / "logs",
    )


def minhash(source: Path, out: Path) -> None:
    config = MinhashConfig()
    part = {name: str(out / name) for name in ("signatures", "buckets", "clusters")}
    execute(
        [JsonlReader(str(source)), MinhashDedupSignature(part["signatures"], config)], out / "1"
    )
    execute(
        [MinhashDedupBuckets(part["signatures"], part["buckets"], config=config)],
        out / "2",
        tasks=config.num_buckets,
    )
    execute(
        [MinhashDedupCluster(part["buckets"], part["clusters"], config=config)], out / "3", tasks=1
    )
    execute(
        [
            JsonlReader(str(source)),
            MinhashDedupFilter(
                part["clusters"],
                exclusion_writer=JsonlWriter(str(out / "drops"), compression=None),
            ),
            JsonlWriter(str(out / "kept"), compression=None),
        ],
        out / "4",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["decontaminate", "minhash"])
    parser.add_argument("--input-folder", type=Path, required=True)
    parser.add_argument("--output-folder", type=Path, required=True)
    parser.add_argument("--rows", type=Path, help="benchmark rows, JSONL with `text`")
    args = parser.parse_args()
    shutil.rmtree(args.output_folder, ignore_errors=True)
    begun = time.perf_counter()
    if args.what == "decontaminate":
        decontaminate(args.input_folder, args.output_folder, args.rows)
    else:
        minhash(args.input_folder, args.output_folder)
    seconds = time.perf_counter() - begun
    counts = {
        name: sum(
            sum(1 for _ in path.open("rb")) for path in (args.output_folder / name).glob("*.jsonl")
        )
        for name in ("kept", "drops")
    }
    print(json.dumps({"seconds": seconds} | counts))


if __name__ == "__main__":
    main()
