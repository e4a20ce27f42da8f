"""Where the seed grows: pages that were not collected, of domains of which many were.

In DeepSeekMath people read the domains of which over 10 % was collected and wrote down the paths
that are about mathematics. `paths`, a file that people write, does that here; without one, a path's
first part stands for the reading: its pages join where more than the same share was collected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_math.base.errors import UserError
from megatron_math.base.records import enumerate_rows
from megatron_math.curate.recall.config import DomainRuleConfig
from megatron_math.curate.recall.pages import NO_DOMAIN, BoolArray, Survey, address_of, blocks


@dataclass(frozen=True)
class Growth:
    """joins_N: pages of found domains that the seed takes up. domains: what was found, one object a
    domain, those with most collected pages first."""

    joins_N: BoolArray
    domains: list[dict[str, Any]]


def grow(
    survey: Survey, collected_N: BoolArray, config: DomainRuleConfig, on_paths_N: BoolArray | None
) -> Growth:
    """Apply the rule. on_paths_N: pages on the paths that people named, or None."""
    pages, collected = _counts(survey.domains_N, collected_N, len(survey.domain_names))
    found = (pages >= config.pages) & (collected > config.share * pages)
    in_found_N = np.append(found, False)[survey.domains_N]  # NO_DOMAIN is the last one
    if on_paths_N is None:
        _, path_N = np.unique(survey.paths_N, return_inverse=True)
        path_pages, path_collected = _counts(path_N, collected_N, int(path_N.max(initial=-1)) + 1)
        on_paths_N = (path_collected > config.share * path_pages)[path_N]
    joins_N = in_found_N & on_paths_N & ~collected_N
    joined = np.bincount(survey.domains_N[joins_N], minlength=len(pages))
    order = np.flatnonzero(found)
    order = order[np.lexsort((order, -collected[order]))]
    return Growth(
        joins_N,
        [
            {
                "domain": survey.domain_names[n],
                "pages": int(pages[n]),
                "collected": int(collected[n]),
                "joined": int(joined[n]),
            }
            for n in order
        ],
    )


def _counts(
    group_N: npt.NDArray[np.integer], collected_N: BoolArray, num_groups: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    has_group_N = group_N != NO_DOMAIN
    pages = np.bincount(group_N[has_group_N], minlength=num_groups)
    collected = np.bincount(group_N[has_group_N & collected_N], minlength=num_groups)
    return pages, collected


def read_paths(path: Path) -> dict[str, list[str]]:
    """Domain -> beginnings of paths. UserError for a line that says something else."""
    found: dict[str, list[str]] = {}
    for number, row in enumerate_rows(path):
        domain, beginning = (
            (row.get("domain"), row.get("path")) if isinstance(row, dict) else (None, None)
        )
        if not isinstance(domain, str) or not isinstance(beginning, str) or not domain:
            raise UserError(
                f"{path}, line {number}: an object with 'domain' and 'path' is expected, such as "
                f'{{"domain": "example.org", "path": "/questions"}}; found {row!r:.80}'
            )
        if not beginning.startswith("/"):
            raise UserError(f"{path}, line {number}: a path begins with '/'; found {beginning!r}")
        name = domain.lower().removeprefix("www.")
        found.setdefault(name, []).append(beginning.rstrip("/"))
    return found


def on_paths(pool: Sequence[Path], paths: dict[str, list[str]]) -> BoolArray:
    """Which of the pool's pages are on one of the paths."""
    found: list[bool] = []
    for block in blocks(pool):
        for record in block:
            address = address_of(record) or ""
            domain = address.partition("?")[0].partition("/")[0]
            rest = address[len(domain) :]
            found.append(any(_is_below(rest, begin) for begin in paths.get(domain, ())))
    return np.array(found, bool)


def _is_below(rest: str, beginning: str) -> bool:
    after = rest[len(beginning) : len(beginning) + 1]
    return rest.startswith(beginning) and after in ("", "/", "?")
