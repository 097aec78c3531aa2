"""Text of real size as test input: texts of installed packages, and books generated from a seed."""

from __future__ import annotations

import random
import re
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_SUFFIXES = (".md", ".rst", ".txt")
_NAMES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "METADATA", "AUTHORS")


def installed_texts(*, least_bytes: int = 2_000, limit: int = 200) -> list[Path]:
    """Return Markdown, RST and text files and licences of installed packages, in a stable order."""
    roots = {Path(sysconfig.get_path("purelib")), *map(Path, site.getsitepackages())}
    found = []
    for root in sorted(roots):
        for path in sorted(root.rglob("*")):
            known = path.suffix.lower() in _SUFFIXES or path.name.startswith(_NAMES)
            if known and path.is_file() and least_bytes <= path.stat().st_size <= 400_000:
                found.append(path)
    found.sort(key=lambda path: (path.suffix != ".md", path.name, str(path)))
    return found[:limit]


def standard_docstrings(limit: int = 400) -> list[str]:
    """Return docstrings of the standard library, one function or class each, by source order."""
    folder = Path(sysconfig.get_path("stdlib"))
    found: list[str] = []
    for name in ("argparse", "asyncio/tasks", "datetime", "pathlib", "random", "statistics", "textwrap", "shutil"):
        path = folder / f"{name}.py"
        if not path.is_file():
            continue
        for part in path.read_text(encoding="utf-8").split('"""')[1::2]:
            if len(part.split()) >= 8:
                found.append(" ".join(part.split()))
    return found[:limit]


@dataclass(frozen=True)
class Fact:
    """A sentence planted in a book, and a question that only this sentence answers."""

    sentence: str
    question: str
    chapter: int


_FACTS = (
    ("The lighthouse keeper of Varn kept a tame otter called Bramble.", "What animal did the lighthouse keeper keep?"),
    ("Doctor Imhof cured the fever with willow bark and honey.", "How was the fever cured?"),
    ("The treaty of Oster was signed on a barge in the harbour.", "Where was the treaty signed?"),
    ("Grandmother hid the gold coins inside the church organ.", "Where were the gold coins hidden?"),
    ("The express train to Lemberg was delayed by a fallen oak tree.", "Why was the train late?"),
    ("Professor Adler discovered a comet while repairing her roof.", "Who discovered a comet?"),
    ("The bakery on Mill Street burned down on the night of the wedding.", "When did the bakery burn down?"),
    ("Captain Rhys paid for the ship with three sacks of pepper.", "What did the captain pay for the ship?"),
    ("The orphan learned to play the violin from a blind watchmaker.", "Who taught the orphan the violin?"),
    ("The king's portrait was painted over with a landscape of cows.", "What happened to the portrait of the king?"),
)

# By frequency, for Zipf's law.
_WORDS = re.findall(
    r"\w+",
    """
    the of and to in a was that he it his had with as for at on her not but be by which all from they were this
    so one said have when there up out if him an more no into who them some upon then time little now than only
    like man very about could over two before down again old after other great made came never long good well
    day such much even through where hand own most might here back must come way still eyes house night first
    those last nothing thought people went being off every another door face water life world room head because
    while voice under always found country once left morning heart looked knew evening young something without
    against though street window table letter garden river winter summer silence village mountain forest shadow
    candle journey stranger brother sister mother father friend neighbour carriage harbour island meadow bridge
    tower market
    """,
)


@dataclass(frozen=True)
class Book:
    """A book in Markdown or plain text, and the facts planted in it."""

    text: str
    facts: tuple[Fact, ...]


def write_book(seed: int, *, chapters: int = 10, words: int = 40_000, markdown: bool = True) -> Book:
    """Return a Gutenberg-like book: words by Zipf's law, paragraphs, chapters; the same for the same seed.

    Each of the first ten chapters holds one fact, in a paragraph of its own, somewhere in its middle.
    """
    dice = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(_WORDS) + 1)]
    parts = ["# The Book\n\nWritten by a seed.\n" if markdown else "THE BOOK\n\nWritten by a seed.\n"]
    facts = []
    for chapter in range(chapters):
        title = f"Chapter {chapter + 1}"
        parts.append(f"\n## {title}\n" if markdown else f"\n\n{title.upper()}\n")
        paragraphs = []
        left = words // chapters
        while left > 0:
            sentences = []
            for _ in range(dice.randint(2, 7)):
                length = min(dice.randint(4, 28), max(left, 4))
                chosen = dice.choices(_WORDS, weights, k=length)
                sentences.append(" ".join(chosen).capitalize() + dice.choice(".....!?"))
                left -= length
            paragraphs.append(" ".join(sentences))
        if chapter < len(_FACTS):
            sentence, question = _FACTS[chapter]
            facts.append(Fact(sentence, question, chapter + 1))
            paragraphs.insert(len(paragraphs) // 2, sentence)
        parts.append("\n" + "\n\n".join(paragraphs) + "\n")
    return Book("".join(parts), tuple(facts))
