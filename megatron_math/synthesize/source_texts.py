"""From source texts to items: which excerpt is asked about with which prompt.

What is drawn (a prompt, the items that a limit lets through, the solved example) follows from the
road's seed and the item's id alone: not from the order of files and rows, nor from shards.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_math.base.errors import UserError
from megatron_math.base.records import enumerate_rows
from megatron_math.synthesize.cutting import Cut, cut_texts
from megatron_math.synthesize.excerpt_config import TOOL, ExcerptsConfig, SourceTextConfig
from megatron_math.synthesize.solved_examples import SolvedExamples
from megatron_math.synthesize.work import Seed, share_of

TEXT_KEYS = ("text", "content")
QUESTION_KEYS = ("problem", "question", "input")
ANSWER_KEYS = ("solution", "answer", "output")
PLAIN_FILES = (".tex", ".md", ".txt")


@dataclass(frozen=True)
class Excerpt(Seed):
    """An item: problem is the excerpt as the prompt shows it, and the id `<source>/<row's id>#<its
    begin>`, with `@<prompt>` behind it where every prompt is asked with."""

    prompt: str = ""
    """grade, ..., aime, or tool."""
    about: Mapping[str, Any] | None = None
    """Where the excerpt stands: source, kind, id of the row, spans."""
    example: tuple[str, str] | None = None
    """tool: a problem and its solution."""

    @property
    def place(self) -> str:
        """The id without the prompt."""
        return self.id.partition("@")[0] if self.id.endswith(f"@{self.prompt}") else self.id


class SourceTexts:
    """The items of all sources, by the names of these and in the order of their files.

    places: name of a place in the configuration -> its files. passed_over: excerpts that became no
    item, by reason. Raises UserError, naming file and line, for a row without a text.
    """

    def __init__(
        self, config: ExcerptsConfig, places: Mapping[str, list[Path]], road_seed: int
    ) -> None:
        self._config = config
        self._places = places
        self._seed = road_seed
        self.passed_over: Counter[str] = Counter()
        self._only = _read_items(places["only"]) if config.only is not None else None
        self._without = {
            item.partition("@")[0]
            for name, paths in places.items()
            if name.startswith("without ")
            for item in _read_items(paths)
        }
        self._examples = SolvedExamples(places.get("examples", []))
        self._drawn: dict[str, set[str]] | None = None
        self._count: int | None = None

    def __iter__(self) -> Iterator[Excerpt]:
        self.count_rows()
        self.passed_over.clear()
        for name, item in self._items():
            if self._drawn is None or name not in self._drawn or item.id in self._drawn[name]:
                yield item
            else:
                self.passed_over["not drawn"] += 1

    def count_rows(self) -> int:
        """Items that there are. Raises UserError where there is none, or an id comes twice."""
        if self._count is None:
            self._count = self._draw()
            if not self._count:
                raise UserError(
                    "synthesize.sources: no excerpt is left to ask about; passed over: "
                    f"{dict(self.passed_over)}"
                )
        return self._count

    def _draw(self) -> int:
        """Look at all items once: draw those that the limits let through, and count."""
        config = self._config
        heaps: dict[str, list[tuple[float, str]]] = {name: [] for name in config.sources}
        rest: Counter[str] = Counter()
        for name, item in self._items():
            size = min(config.sources[name].limit or 2**63, config.limit or 2**63)
            if size == 2**63:
                rest[name] += 1
                continue
            entry = -share_of(self._seed, "limit", item.id), item.id
            if len(heaps[name]) < size:
                heapq.heappush(heaps[name], entry)
            else:
                heapq.heappushpop(heaps[name], entry)
        best = heapq.nlargest(
            config.limit or 2**31, ((share, name, id) for name, heap in heaps.items()
                                    for share, id in heap)
        )  # fmt: skip
        limited = {n for n, s in config.sources.items() if config.limit or s.limit}
        self._drawn = {name: {id for _, n, id in best if n == name} for name in limited}
        if len(best) != sum(map(len, self._drawn.values())):
            twice = [id for id, count in Counter(id for _, _, id in best).items() if count > 1]
            raise UserError(
                f"synthesize.sources: the id {twice[0]} comes twice; ids of rows must be unique "
                "within a source (leave them out, and file and line are the id)"
            )
        return len(best) + sum(rest.values())

    def _items(self) -> Iterator[tuple[str, Excerpt]]:
        """(source, item), before limits."""
        missing = set(self._only or ())
        for name, source in sorted(self._config.sources.items()):
            for path in self._places[f"source {name}"]:
                for row_id, parts in _documents(source, path):
                    for item in self._of_document(name, source, row_id, parts):
                        missing.discard(item.id)
                        if item.place in self._without:
                            self.passed_over["asked about before"] += 1
                        elif self._only is None or self._only.get(item.id) == item.prompt:
                            yield name, item
                        else:
                            self.passed_over["not among the chosen"] += 1
        if missing:
            raise UserError(
                f"synthesize.only: {len(missing)} of {len(self._only or ())} items are not in the "
                f"sources, such as {min(missing)}; give the sources that they were made from"
            )

    def _of_document(
        self, name: str, source: SourceTextConfig, row_id: str, parts: Mapping[str, str]
    ) -> Iterator[Excerpt]:
        prompts = source.prompts(self._config.stages)
        num_cuts = 0
        for cut in cut_texts(source.kind, parts, source.longest):
            num_cuts += 1
            if sum(end - begin for _, begin, end in cut.spans) < source.least_characters:
                self.passed_over["too short"] += 1
                continue
            place = f"{name}/{row_id}#{cut.spans[0][1]}"
            if source.asks_every and len(prompts) > 1:
                for prompt in prompts:
                    yield self._item(f"{place}@{prompt}", prompt, name, source, row_id, cut)
            else:
                yield self._item(place, self._prompt(place, prompts), name, source, row_id, cut)
        if not num_cuts:
            self.passed_over["empty text"] += 1

    def _prompt(self, place: str, prompts: list[str]) -> str:
        """The one that is drawn, or with `only` the one that it had."""
        if self._only is not None and place in self._only:
            return self._only[place]
        return prompts[int(share_of(self._seed, "prompt", place) * len(prompts))]

    def _item(
        self, id: str, prompt: str, name: str, source: SourceTextConfig, row_id: str, cut: Cut
    ) -> Excerpt:
        about = {
            "source": name,
            "kind": source.kind,
            "id": row_id,
            "spans": [list(span) for span in cut.spans],
        }
        example = self._examples.draw(self._seed, id) if prompt == TOOL else None
        return Excerpt(id, cut.text, prompt=prompt, about=about, example=example)


def _documents(source: SourceTextConfig, path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(id, key -> text) of each row; a plain file is one document, by its name."""
    if path.suffix in PLAIN_FILES:
        yield path.name, {"text": path.read_text(encoding="utf-8", errors="replace")}
        return
    for line, row in enumerate_rows(path):
        where = f"{path}, line {line}"
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON object is expected, found {type(row).__name__}")
        wanted: list[tuple[str | None, tuple[str, ...], str]]
        if source.kind == "qa":
            wanted = [(source.text, QUESTION_KEYS, "text"), (source.answer, ANSWER_KEYS, "answer")]
        else:
            wanted = [(source.text, (*TEXT_KEYS, *QUESTION_KEYS), "text")]
        parts = dict(_text(row, *want, where) for want in wanted)
        yield str(row.get("id", f"{path.name}:{line}")), parts


def _text(
    row: Mapping[str, Any], key: str | None, usual: tuple[str, ...], name: str, where: str
) -> tuple[str, str]:
    """(key, text) under `key` or the first usual one that the row has. Raises UserError."""
    for candidate in usual if key is None else (key,):
        if (value := row.get(candidate)) is None:
            continue
        if not isinstance(value, str):
            raise UserError(f"{where}: '{candidate}' must be a text, found {value!r:.80}")
        return candidate, value
    wanted = f"under {', '.join(usual)}" if key is None else f"'{key}'"
    raise UserError(f"{where}: no text {wanted}; the row has {sorted(row)}; give {name}: KEY")


def _read_items(paths: list[Path]) -> dict[str, str]:
    """Item -> its prompt, of records that the method `excerpts` wrote. Raises UserError."""
    found = {}
    for path in paths:
        for line, row in enumerate_rows(path):
            meta = row.get("meta") if isinstance(row, dict) else None
            if not isinstance(meta, dict) or not {"seed_id", "stage"} <= meta.keys():
                raise UserError(
                    f"{path}, line {line}: no record of the method excerpts (its meta has "
                    "'seed_id' and 'stage'); give a problems.jsonl of it, or what curate kept of it"
                )
            found[meta["seed_id"]] = meta["stage"]
    return found
