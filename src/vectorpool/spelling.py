"""The known names nearest to one that is not known, so that a refusal says what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

# The comparison takes time with the square of the length, and names of ours are short.
_LONGEST: Final = 100
_MOST: Final = 3
_LEAST_LIKENESS: Final = 0.6


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of ``known`` that are spelled like ``name``, the nearest first."""
    if len(name) > _LONGEST:
        return []
    spelled = {each.lower().replace("-", "_"): each for each in known}
    wanted = name.lower().replace("-", "_")
    found = get_close_matches(wanted, spelled, _MOST, _LEAST_LIKENESS)
    if not found:
        # "dimension" is no typing error of "max_dimension", but it is what was meant.
        found = sorted(each for each in spelled if len(wanted) > 3 and (wanted in each or each in wanted))[:_MOST]
    return [spelled[each] for each in found]


def meant(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest of ``known``, with a space before it; empty text if none is near."""
    found = nearest(name, known)
    if not found:
        return ""
    return f" Did you mean {' or '.join(found)}?"
