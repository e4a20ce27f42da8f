"""The pool's pages, read again and again in the same order, and what each is known by."""

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_math.base.files import atomic_open, read_json, write_json
from megatron_math.base.records import Record, read_records
from megatron_math.curate.dedup import normal_url

BLOCK_RECORDS = 512
NO_DOMAIN = -1

BoolArray = npt.NDArray[np.bool_]


def blocks(paths: Sequence[Path]) -> Iterator[list[Record]]:
    """The records of some files in their order, some at a time."""
    for path in paths:
        records = read_records(path)
        while block := list(islice(records, BLOCK_RECORDS)):
            yield block


def draw(num_items: int, at_most: int, seed: str) -> BoolArray:
    """Which of the items are among so many drawn at random."""
    chosen = np.zeros(num_items, bool)
    if num_items <= at_most:
        chosen[:] = True
    else:
        random = np.random.default_rng(number_of(seed))
        chosen[random.choice(num_items, at_most, replace=False, shuffle=False)] = True
    return chosen


def chosen_blocks(paths: Sequence[Path], is_chosen: BoolArray) -> Iterator[list[Record]]:
    """The chosen ones of all records of some files, some at a time."""
    begin = 0
    for block in blocks(paths):
        yield [block[n] for n in np.flatnonzero(is_chosen[begin : begin + len(block)])]
        begin += len(block)


def number_of(text: str) -> int:
    """A seed for a generator, of a text that says what is drawn."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@dataclass(frozen=True)
class Survey:
    """What the loop knows of the pool but for the texts; pages are numbered through all files.

    num_pages: of each file. domains_N: int32, into `domain_names`, or NO_DOMAIN. paths_N: uint64, a
    hash of domain and first part of the path. num_seed, num_general: records of these files.
    """

    num_pages: list[int]
    domains_N: npt.NDArray[np.int32]
    paths_N: npt.NDArray[np.uint64]
    domain_names: list[str]
    num_seed: int
    num_general: int

    def __len__(self) -> int:
        return len(self.domains_N)

    def begin(self, file: int) -> int:
        """The number of a file's first page."""
        return sum(self.num_pages[:file])


def survey(
    pool: Sequence[Path], seed: Sequence[Path], general: Sequence[Path], folder: Path
) -> Survey:
    """Read everything once; what `folder` holds already is taken as it is."""
    if not (folder / "survey.json").is_file():
        _write_survey(pool, seed, general, folder)
    counts = read_json(folder / "survey.json")
    return Survey(
        counts["pages"],
        np.load(folder / "domains.npy"),
        np.load(folder / "paths.npy"),
        (folder / "domains.txt").read_text(encoding="utf-8").splitlines(),
        counts["seed"],
        counts["general"],
    )


def _write_survey(
    pool: Sequence[Path], seed: Sequence[Path], general: Sequence[Path], folder: Path
) -> None:
    numbers: dict[str, int] = {}
    domains, paths, num_pages = array("i"), array("Q"), []
    for file in pool:
        before = len(domains)
        for block in blocks([file]):
            for record in block:
                place = place_of(record)
                domain, path = place if place is not None else ("", "")
                domains.append(
                    NO_DOMAIN if place is None else numbers.setdefault(domain, len(numbers))
                )
                paths.append(_hash(f"{domain}/{path}"))
        num_pages.append(len(domains) - before)
    for name, values, dtype in (("domains", domains, np.int32), ("paths", paths, np.uint64)):
        with atomic_open(folder / f"{name}.npy", "wb") as out:
            np.save(out, np.array(values, dtype))
    with atomic_open(folder / "domains.txt") as out:
        out.writelines(f"{name}\n" for name in numbers)
    counts = {"pages": num_pages, "seed": _count(seed), "general": _count(general)}
    write_json(folder / "survey.json", counts)


def address_of(record: Record) -> str | None:
    """`meta.url` without what does not matter, or None."""
    url = record.meta.get("url")
    return normal_url(url) if isinstance(url, str) and url.strip() else None


def place_of(record: Record) -> tuple[str, str] | None:
    """Domain and first part of the path ('' for pages right below the domain), or None."""
    address = address_of(record)
    if address is None:
        return None
    domain, _, rest = address.partition("?")[0].partition("/")
    domain = " ".join(domain.split())  # one line of domains.txt, whatever it is
    return domain, rest.partition("/")[0] if "/" in rest else ""


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _count(paths: Sequence[Path]) -> int:
    return sum(len(block) for block in blocks(paths))
