"""The tolerance for computed numbers, in all tests that compare ours with those of another program.

A distance is a sum of float32 products. The order of its terms, and whether a product is rounded before it is added,
depend on the processor: OpenBLAS and hnswlib each choose code for it at run time. A number that is only stored and
returned is not computed, and is compared for equality.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Relative to the number, and absolute in units of the largest term: 8 roundings of a float32. Enough for vectors of
# some dozens of numbers, which is what the tests compare with other programs.
TOLERANCE = 1e-6
# Makes OpenBLAS use its simplest code for this processor family, whose rounding differs from that of newer code.
PLAINEST_KERNEL = {"OPENBLAS_CORETYPE": "Prescott"}


def is_close(one: float, other: float) -> bool:
    """Whether two computed numbers agree whose terms are not larger than 1, or than the numbers themselves."""
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def assert_close(ours: Any, theirs: Any, largest_term: float = 1.0) -> None:
    """Assert that arrays of computed numbers agree. ``largest_term`` bounds the terms that their sums may cancel."""
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, largest_term))


def largest_term(space: str, probe: Any, largest: float) -> float:
    """Return a bound of the terms of a distance that may cancel; ``largest`` bounds the stored vectors' numbers.

    A squared distance has only positive terms, and a cosine is of vectors of length 1.
    """
    return float(np.abs(probe).max()) * largest if space == "ip" else 1.0
