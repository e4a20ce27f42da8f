"""Four corpora from public data sets that lie in one folder: general, mathtext, problems, jiuzhang.

    python examples/10_gsm8k_cpu/corpora.py --data DATA --out runs/gsm8k/corpora

Reads, below DATA: general/wikitext2_{valid,test}.txt, math/stacks_*.tex, gsm8k/train.jsonl and
jiuzhang3/*_sampled.jsonl; these and nothing else, so no file that is scored on. Writes
<out>/{general,mathtext,problems,jiuzhang}.jsonl.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from megatron_math.base.errors import UserError
from megatron_math.base.records import Record, enumerate_rows, write_records

# A title stands between two blank lines; table cells of the same form do not.
ARTICLE_TITLE = re.compile(r"^ \n = [^=].*[^=] = \n \n", re.MULTILINE)
SECTION = re.compile(r"^\\section\{", re.MULTILINE)
CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
JIUZHANG_INPUT = re.compile(
    r"## Question\n(?P<problem>.*)\n\n## (?:Code |Step-by-Step )?Solution\n", re.DOTALL
)
# A section such as an empty introduction teaches nothing.
MIN_CHARACTERS = 80


def split_at(pattern: re.Pattern[str], text: str) -> list[str]:
    """The parts of `text` that begin where `pattern` matches; what stands before is left out."""
    starts = [match.start() for match in pattern.finditer(text)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def wikitext_articles(data: Path) -> Iterator[Record]:
    """WikiText-2's articles. Only its marks for split numbers and words are undone (` @-@ `)."""
    for name in ("wikitext2_valid", "wikitext2_test"):
        text = (data / "general" / f"{name}.txt").read_text(encoding="utf-8")
        for number, article in enumerate(split_at(ARTICLE_TITLE, text), start=1):
            joined = re.sub(r" @([-,.])@ ", r"\1", article)
            lines = [line.strip() for line in joined.splitlines() if line.strip()]
            yield Record(id=f"{name}:{number}", source="general", text="\n".join(lines))


def stacks_sections(data: Path) -> Iterator[Record]:
    """The sections of the Stacks project's chapters, as LaTeX."""
    paths = sorted((data / "math").glob("stacks_*.tex"))
    if not paths:
        raise UserError(f"{data / 'math'} holds no stacks_*.tex; give --data the data folder")
    for path in paths:
        text = path.read_text(encoding="utf-8").split("\n\\input{chapters}")[0]
        for number, section in enumerate(split_at(SECTION, text), start=1):
            section = re.sub(r"\n{3,}", "\n\n", section).strip()
            if len(section) >= MIN_CHARACTERS:
                yield Record(id=f"{path.stem}:{number}", source="mathtext", text=section)


def gsm8k_train(data: Path) -> Iterator[Record]:
    """GSM8K train: steps without calculator marks, then the sentence with the answer."""
    path = data / "gsm8k" / "train.jsonl"
    for number, row in enumerate_rows(path):
        steps, mark, answer = row["answer"].rpartition("\n#### ")
        if not mark:
            raise UserError(f"{path}, line {number}: no '#### ' before the final answer")
        answer = answer.strip()
        solution = f"{CALCULATOR_MARK.sub('', steps)}\nThe answer is {answer}."
        yield Record(
            id=f"gsm8k-train:{number}",
            source="problems",
            problem=row["question"],
            solution=solution,
            answer=answer,
        )


def jiuzhang_samples(data: Path) -> Iterator[Record]:
    """The three JiuZhang3.0 samples; `meta.kind` keeps which one, the text stays as it is."""
    for kind in ("cot_pretrain", "tool_pretrain", "finetune"):
        path = data / "jiuzhang3" / f"{kind}_data_sampled.jsonl"
        for number, row in enumerate_rows(path):
            match = JIUZHANG_INPUT.fullmatch(row["input"])
            if match is None:
                raise UserError(
                    f"{path}, line {number}: the input is not '## Question', a text and "
                    f"'## ... Solution'; found {row['input']!r:.120}"
                )
            yield Record(
                id=f"jiuzhang3-{kind}:{number}",
                source="jiuzhang",
                problem=match["problem"].strip(),
                solution=row["output"].strip(),
                meta={"kind": kind},
            )


CORPORA = {
    "general": wikitext_articles,
    "mathtext": stacks_sections,
    "problems": gsm8k_train,
    "jiuzhang": jiuzhang_samples,
}


def main(command_line: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder for the four files")
    arguments = parser.parse_args(command_line)
    for name, read in CORPORA.items():
        path = arguments.out / f"{name}.jsonl"
        try:
            count = write_records(path, read(arguments.data))
        except (UserError, FileNotFoundError) as error:
            raise SystemExit(str(error)) from None
        print(f"{path}: {count:,} documents, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
