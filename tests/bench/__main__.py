"""Run the benches, and keep the table of docs/benchmarks.md.

``python -m tests.bench [names] [--json FILE] [--quick] [--write]``

Every bench checks the answers it gets. Figures are medians of turns in alternation. A bench never fails because of
speed.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shutil
import tempfile
import time
from pathlib import Path

import msgspec

from tests.bench import (
    capture,
    cold,
    commit,
    cost,
    day,
    export,
    flood,
    hostile,
    indexes,
    ingest,
    memory,
    neighbour,
    path,
    peers,
    query,
    scaling,
    search_object,
    slices,
    start,
    tenants,
    threshold,
    users,
    written,
)
from tests.bench.ground import Line, Place, machine
from tests.support.radosgw import Radosgw

BENCHES = {
    "capture": capture.run,
    "cold": cold.run,
    "commit": commit.run,
    "cost": cost.run,
    "day": day.run,
    "flood": flood.run,
    "hostile": hostile.run,
    "indexes": indexes.run,
    "ingest": ingest.run,
    "memory": memory.run,
    "neighbour": neighbour.run,
    "path": path.run,
    "peers": peers.run,
    "query": query.run,
    "scaling": scaling.run,
    "export": export.run,
    "search_object": search_object.run,
    "slices": slices.run,
    "start": start.run,
    "tenants": tenants.run,
    "sync_threshold": threshold.run,
    "users": users.run,
    "written": written.run,
}
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
START, END = "<!-- figures -->", "<!-- /figures -->"


def table(lines: list[Line], command: str, where: str) -> str:
    """Return the figures as Markdown."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = [
        f"Measured on {today} by `{command}`, against a real S3 (radosgw on the loopback, objects in memory): {where}.",
        "Medians of turns taken in alternation; a ratio is ours by theirs.",
        "",
        "| what | ours | against | ratio | target | |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}" if line.ratio >= 0.1 else f"{line.ratio:.4f}"
        met = {None: "", True: "met", False: "**missed**"}[line.met]
        told = "; ".join(part for part in (met, line.note) if part)
        rows.append(f"| {line.what} | {line.ours} | {line.against} | {ratio} | {line.target} | {told} |")
    return "\n".join(rows)


def merged(old: str, new: str, names: list[str]) -> str:
    """Return the old table with the lines of some benches as they are now: each in its place, new ones at its end."""

    def rows(text: str) -> dict[str, str]:
        found = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what |")]
        return {line.split(" | ")[0]: line for line in found}

    head, title, _ = old.strip().partition("| what |")
    again = new.partition("Measured")[2].partition("\n")[0]
    told = f"The lines of {', '.join(f'`{name}`' for name in names)} were measured{again}"
    ruler = ["| what | ours | against | ratio | target | |", "|---|---|---|---|---|---|"]
    assert title, "the page has a table"
    return "\n".join([head.strip(), told, "", *ruler, *(rows(old) | rows(new)).values()])


def write_page(text: str, names: list[str]) -> None:
    """Put the table between the page's markers; of some benches only their lines."""
    page = PAGE.read_text(encoding="utf-8")
    head, found, rest = page.partition(START)
    _, ended, tail = rest.partition(END)
    if not found or not ended:
        raise SystemExit(f"docs/benchmarks.md has no {START} and {END}.")
    there = rest.partition(END)[0]
    text = merged(there, text, names) if names else text
    PAGE.write_text(f"{head}{START}\n{text}\n{END}{tail}", encoding="utf-8")


async def measure(names: list[str], place: Place, json: Path | None) -> list[Line]:
    """Run benches one after the other; print each as it is done, and rewrite the JSON file."""
    lines: list[Line] = []
    for name in names:
        began = time.perf_counter()
        made = await BENCHES[name](place)
        print(f"\n{name} ({time.perf_counter() - began:.0f} s)", flush=True)
        for line in made:
            print(f"  {line.what}: {line.ours} | {line.against} | {line.ratio} {line.target} {line.note}", flush=True)
        lines += made
        if json:
            json.write_bytes(msgspec.json.format(msgspec.json.encode(lines)))
    return lines


def main() -> None:
    """Parse the arguments, start the S3, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which benches; all by default")
    parser.add_argument("--json", type=Path, help="write the lines to this file too")
    parser.add_argument("--quick", action="store_true", help="smaller and fewer; not for the page")
    parser.add_argument(
        "--write", action="store_true", help="put the table, or the lines of the named benches, into docs/benchmarks.md"
    )
    options = parser.parse_args()
    names = options.names or list(BENCHES)
    where = machine()
    scratch = Path(tempfile.mkdtemp(prefix="vectorpool-bench-"))
    server = Radosgw.start()
    try:
        place = Place(server, f"s3://{server.make_bucket()}/bench", scratch, options.quick)
        lines = asyncio.run(measure(names, place, options.json))
    finally:
        server.close()
        shutil.rmtree(scratch, ignore_errors=True)
    command = " ".join(["uv run python -m tests.bench", *options.names, *(["--quick"] if options.quick else [])])
    text = table(lines, command, where)
    print(f"\n{text}")
    if options.write:
        write_page(text, options.names)


if __name__ == "__main__":
    main()
