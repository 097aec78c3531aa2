"""The notebook runs from its first cell to its last, and prints what it has stored as its outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.walks import matches

FOLDER = Path(__file__).parent
NOTEBOOK: dict[str, Any] = json.loads((FOLDER / "vectorpool.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
SEPARATOR = "=== the next cell ==="


def test_every_cell_prints_what_is_stored(run: Callable[..., str]) -> None:
    """The code cells, run one after another in one process, print the outputs that the notebook shows."""
    assert (NOTEBOOK["nbformat"], len({cell["id"] for cell in NOTEBOOK["cells"]})) == (4, len(NOTEBOOK["cells"]))
    program = f"\nprint({SEPARATOR!r})\n".join("".join(cell["source"]) for cell in CODE)
    printed = run("python", "-c", program, cwd=FOLDER).split(f"{SEPARATOR}\n")
    shown = ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in CODE]
    assert len(printed) == len(shown) > 5
    for cell, expected, got in zip(CODE, shown, printed, strict=True):
        assert matches(expected, got), f"{''.join(cell['source'])}\nprinted\n{got}\nand the notebook shows\n{expected}"
