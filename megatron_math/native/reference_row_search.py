"""The readable twin of `row_search`: every text against every row, by plain comparison."""

from collections.abc import Iterator, Sequence

from megatron_math.native.reference_words import split
from megatron_math.native.row_search import Need, RowHit, Searched, SearchRule
from megatron_math.native.words import NUMBER_MARK, Splitting, Word

Forms = Sequence[bytes]


def searched(rule: SearchRule, row: bytes) -> Searched:
    """How a row is looked for."""
    words = split(row, rule.splitting)
    if not words:
        return Searched.NO_WORDS
    if rule.splitting == Splitting.NUMBERS and all(word.form != NUMBER_MARK for word in words):
        return Searched.NO_NUMBERS
    if len(words) >= rule.least_words:
        return Searched.YES
    return Searched.AS_WHOLE_TEXT if rule.whole_texts else Searched.TOO_SHORT


def search(
    rules: Sequence[SearchRule], rows: Sequence[Sequence[bytes]], texts: Sequence[bytes]
) -> list[RowHit]:
    """Twin of RowSearcher.search; rows: by rule."""
    found = []
    for number, text in enumerate(texts):
        for rule_number, rule in enumerate(rules):
            text_words = split(text, rule.splitting)
            for row_number, row in enumerate(rows[rule_number]):
                if searched(rule, row) not in (Searched.YES, Searched.AS_WHOLE_TEXT):
                    continue
                row_words = split(row, rule.splitting)
                best = None
                for hit in _hits(rule, _forms(row_words), _forms(text_words)):
                    if best is None or hit[0] > best[0]:
                        best = hit
                if best is not None:
                    num_words, begin, end, row_begin, row_end = best
                    found.append(
                        RowHit(
                            *(number, rule_number, row_number, num_words, len(row_words)),
                            *(text_words[begin].begin, text_words[end - 1].end),
                            *(row_words[row_begin].begin, row_words[row_end - 1].end),
                        )
                    )
    return found


def _forms(words: Sequence[Word]) -> list[bytes]:
    return [word.form for word in words]


def _hits(rule: SearchRule, row: Forms, text: Forms) -> Iterator[tuple[int, int, int, int, int]]:
    """(words, begin, end, row_begin, row_end) in words, in the order in which seeds are met."""
    if len(row) < rule.least_words:
        if row == text:
            yield len(row), 0, len(row), 0, len(row)
        return
    if rule.need == Need.WHOLE or len(row) < rule.seed_words:
        for at in range(len(text) - len(row) + 1):
            if text[at : at + len(row)] == row:
                yield len(row), at, at + len(row), 0, len(row)
        return
    places: Sequence[int] = range(len(row) - rule.seed_words + 1)
    if rule.need == Need.SHARE:
        places = [p for p in places if _is_telling(row[p : p + rule.seed_words])] or places
    compared = set()
    slack = max(4, len(row) // 8)
    for at in range(len(text) - rule.seed_words + 1):
        for place in places:
            if text[at : at + rule.seed_words] != row[place : place + rule.seed_words]:
                continue
            if rule.need == Need.SEED:
                yield _run(row, text, at, place)
                continue
            window = (at - place) // slack
            if window in compared:
                continue
            compared.add(window)
            first = max(0, (window - 1) * slack)
            part = text[first : (window + 2) * slack + len(row)]
            num_words, begin, end = _common(row, part)
            if num_words > rule.share * len(row):
                _, row_begin, row_end = _common(part[begin:end], row)
                yield num_words, first + begin, first + end, row_begin, row_end


def _is_telling(seed: Forms) -> bool:
    """Two different words of letters; what has none is in every table of numbers."""
    return len({word for word in seed if word[:1].isalpha() or word >= b"\x80"}) > 1


def _run(row: Forms, text: Forms, at: int, place: int) -> tuple[int, int, int, int, int]:
    """The longest run of equal words around text[at] and row[place]."""
    before, after = 0, 0
    while before < min(at, place) and row[place - before - 1] == text[at - before - 1]:
        before += 1
    while at + after < len(text) and place + after < len(row):
        if row[place + after] != text[at + after]:
            break
        after += 1
    return before + after, at - before, at + after, place - before, place + after


def _common(fixed: Forms, moving: Forms) -> tuple[int, int, int]:
    """Words of the longest common subsequence; the first end, and for it the last beginning, of a
    part of `moving` that has so many."""
    lengths = _common_lengths(fixed, moving)
    longest = lengths[-1]
    end = lengths.index(longest)
    backwards = _common_lengths(fixed[::-1], moving[:end][::-1])
    return longest, end - backwards.index(longest), end


def _common_lengths(fixed: Forms, moving: Forms) -> list[int]:
    """Length of the longest common subsequence with the first 0, 1, ... words of `moving`."""
    row, lengths = [0] * (len(fixed) + 1), [0]
    for word in moving:
        before = row
        row = [0]
        for i, other in enumerate(fixed):
            row.append(before[i] + 1 if word == other else max(before[i + 1], row[i]))
        lengths.append(row[-1])
    return lengths
