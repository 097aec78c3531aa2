"""``vectorpool top``: a live view of a running service, from its metrics, its pool and its shards.

Rates and times are of the interval between two looks; the first frame shows those since the start. Users are shown by a
hash, because a screen is seen by others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vectorpool.cli.console import run
from vectorpool.cli.figures import Figures, Interval
from vectorpool.cli.service_client import DEFAULT_URL, ServiceClient, open_client
from vectorpool.errors import VectorpoolError
from vectorpool.objects.unusable import printable
from vectorpool.sources import SYSTEM

# One look, with all its questions: a service that hangs is shown as that.
_LOOK_S: Final = 5.0
_PARTS: Final = ("queue", "embed", "hydrate", "freshness", "engine", "commit", "store")
_WIDE: Final = 100
_BAR: Final = 8


class Look:
    """What one look at a service gave. ``error`` says why there is nothing new."""

    def __init__(self) -> None:
        self.ready: dict[str, Any] = {}
        self.pool: dict[str, Any] = {}
        self.figures: Figures | None = None
        self.uses: dict[str, int] = {}
        self.error = ""


async def look(client: ServiceClient) -> Look:
    """Ask a service for all that a frame shows. Raises VectorpoolError."""
    found = Look()
    try:
        async with asyncio.timeout(_LOOK_S):
            text = await client.text("/metrics")
            found.pool = await client.ask("GET", "/admin/pool")
            found.ready = await client.ask("GET", "/admin/ready", ok=(503,))
    except TimeoutError:
        raise VectorpoolError(f"The service at {client.url} did not answer within {_LOOK_S:g} s.") from None
    try:
        found.figures = await asyncio.to_thread(Figures, text, SYSTEM.now_ms() / 1000)
    except ValueError as error:
        raise VectorpoolError(f"{client.url}/metrics is not in the format of Prometheus: {error}.") from None
    for slot in found.pool["slots"]:
        found.uses[slot["user_id"]] = found.uses.get(slot["user_id"], 0) + int(slot.get("uses", 0))
    return found


def user_hash(user_id: str) -> str:
    """Return by what a user is shown."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:12]


# --- The frame ---------------------------------------------------------------------------------------


def frame(url: str, now: Look, before: Look | None, *, width: int, users: int) -> RenderableType:
    """Return one frame, for a terminal of this width."""
    assert now.figures is not None
    interval = Interval(now.figures, before.figures if before is not None else None)
    parts: list[RenderableType] = [_head(url, now, interval)]
    pairs = [(_requests(interval), _store(interval)), (_shards(now, interval), _users(now, before, interval, users))]
    for left, right in pairs:
        if width < _WIDE:
            parts += [left, right]
            continue
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(left, right)
        parts.append(grid)
    return Group(*parts)


def _head(url: str, now: Look, interval: Interval) -> RenderableType:
    figures, status = interval.now, now.ready.get("status", "unknown")
    started_s = figures.total("vectorpool_start_time_seconds")
    line = Text.assemble(
        ("vectorpool ", "bold"),
        f"{url}  ",
        (status, "bold green" if status == "ready" else "bold red"),
        f"  up {_span(figures.at_s - started_s)}  store {now.ready.get('store', '?')}  ",
        f"{_number(figures.total('vectorpool_requests_under_way'))} under way  ",
        f"{_number(figures.total('vectorpool_connections'))} connections",
    )
    reasons = [Text(f"  {printable(reason)}", style="yellow") for reason in now.ready.get("reasons", [])[:4]]
    if now.error:
        reasons.append(Text(f"  {now.error}", style="bold red"))
    return Group(line, *reasons)


def _requests(interval: Interval) -> RenderableType:
    table = _table("a second", "p50", "p99")
    name = "vectorpool_request_seconds"
    for protocol in interval.values("vectorpool_requests_total", "protocol"):
        table.add_row(
            protocol,
            _number(interval.rate("vectorpool_requests_total", protocol=protocol)),
            _time(interval.quantile(name, 0.5, protocol=protocol)),
            _time(interval.quantile(name, 0.99, protocol=protocol)),
        )
    failed = sum(
        interval.rate("vectorpool_requests_total", status=status)
        for status in interval.values("vectorpool_requests_total", "status")
        if status.startswith("5") or status == "429"
    )
    table.add_row("429 and 5xx", Text(_number(failed), style="red" if failed else ""), "", "")
    table.add_section()
    name = "vectorpool_request_part_seconds"
    for part in _PARTS:
        if interval.grown(f"{name}_count", part=part):
            table.add_row(
                f"  {part}",
                _number(interval.rate(f"{name}_count", part=part)),
                _time(interval.quantile(name, 0.5, part=part)),
                _time(interval.quantile(name, 0.99, part=part)),
            )
    return Panel(table, title="requests", title_align="left", border_style="dim")


def _store(interval: Interval) -> RenderableType:
    table = _table("a second", "p50", "p99")
    name = "vectorpool_store_request_seconds"
    for operation in interval.values("vectorpool_store_requests_total", "operation"):
        rate = interval.rate("vectorpool_store_requests_total", operation=operation)
        if interval.now.total("vectorpool_store_requests_total", operation=operation):
            p50, p99 = (interval.quantile(name, share, operation=operation) for share in (0.5, 0.99))
            table.add_row(operation, _number(rate), _time(p50), _time(p99))
    bad = sum(
        interval.rate("vectorpool_store_requests_total", outcome=outcome)
        for outcome in ("denied", "unavailable", "failed")
    )
    table.add_row("refused, no answer", Text(_number(bad), style="red" if bad else ""), "", "")
    sent, received = (interval.rate(f"vectorpool_store_{way}_bytes_total") for way in ("sent", "received"))
    commits = interval.rate("vectorpool_commits_total", outcome="committed")
    lost = interval.rate("vectorpool_commits_total", outcome="lost")
    table.add_section()
    table.add_row("sent, received", f"{decimal(int(sent))}/s", f"{decimal(int(received))}/s", "")
    table.add_row("commits, lost", _number(commits), _number(lost), "")
    return Panel(table, title="store", title_align="left", border_style="dim")


def _shards(now: Look, interval: Interval) -> RenderableType:
    table = Table(box=None, pad_edge=False, expand=True)
    for column in ("shard", "state", "slots", "requests", "memory", "cpu"):
        table.add_column(column, justify="left" if column in ("shard", "state", "slots") else "right", no_wrap=True)
    figures = interval.now
    for shard in now.ready.get("shards", []):
        number = f"isolated {shard['shard']}" if shard["is_isolated"] else str(shard["shard"])
        label = f"isolated-{shard['shard']}" if shard["is_isolated"] else str(shard["shard"])
        opened = figures.total("vectorpool_pool_open_slots", shard=label)
        most = figures.total("vectorpool_pool_open_slots_limit", shard=label)
        process = (
            f"shard-{label}"
            if f"shard-{label}" in interval.values("vectorpool_process_memory_bytes", "process")
            else label
        )
        cpu = interval.rate("vectorpool_process_cpu_seconds_total", process=process)
        state = shard["state"]
        table.add_row(
            number,
            Text(state, style="green" if state == "ready" else "red"),
            Text.assemble(_bar(opened, most), f" {opened:.0f}/{most:.0f}"),
            str(shard["requests"]),
            decimal(int(figures.total("vectorpool_process_memory_bytes", process=process))),
            f"{cpu:.0%}",
        )
    table.add_row(
        "front",
        "",
        "",
        "",
        decimal(int(figures.total("vectorpool_process_memory_bytes", process="front"))),
        f"{interval.rate('vectorpool_process_cpu_seconds_total', process='front'):.0%}",
    )
    hydrations = interval.rate("vectorpool_hydration_seconds_count")
    evictions = interval.rate("vectorpool_evictions_total")
    pool = now.pool
    foot = (
        f"{decimal(pool['local_bytes'])} of {decimal(pool['local_bytes_limit'])} on disk, {pool['waiting']} waiting, "
        f"{_number(hydrations)} hydrations and {_number(evictions)} evictions a second"
    )
    return Panel(Group(table, Text(foot, style="dim")), title="shards", title_align="left", border_style="dim")


def _users(now: Look, before: Look | None, interval: Interval, most: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, expand=True)
    for column in ("user", "shard", "state", "a second", "bytes"):
        table.add_column(column, justify="left" if column in ("user", "shard", "state") else "right")
    last = before.uses if before is not None else {}
    slots = {slot["user_id"]: slot for slot in now.pool["slots"] if slot["at"] is None}
    # A slot that was opened again counts anew.
    rates = {
        user: (now.uses[user] - last.get(user, 0)) % max(now.uses[user] + 1, 1) / interval.seconds for user in slots
    }
    busiest = sorted(slots, key=lambda user: (-rates[user], -slots[user]["last_use_ms"]))[:most]
    for user in busiest:
        slot = slots[user]
        table.add_row(user_hash(user), str(slot["shard"]), slot["state"], _number(rates[user]), decimal(slot["bytes"]))
    foot = Text(f"{len(slots)} users have an open vectorstore", style="dim")
    return Panel(Group(table, foot), title="busiest users", title_align="left", border_style="dim")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _bar(value: float, most: float) -> Text:
    share = min(value / most, 1.0) if most else 0.0
    filled = round(share * _BAR)
    return Text("█" * filled + "·" * (_BAR - filled), style="red" if share > 0.9 else "cyan")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _span(seconds: float) -> str:
    minutes, seconds = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


# --- The command -------------------------------------------------------------------------------------


def top(service: str | None, token_file: Path | None, every_s: float, once: bool, users: int) -> int:
    """Show frames until Ctrl-C, or one; return the exit code."""
    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        return run(_top(service or DEFAULT_URL, token_file, every_s, once or not console.is_terminal, users, console))
    return 0


async def _top(url: str, token_file: Path | None, every_s: float, once: bool, users: int, console: Console) -> int:
    async with open_client(url, token_file) as client:
        before: Look | None = None
        now = await look(client)
        if once:
            # Rates need two looks.
            before = now
            await asyncio.sleep(min(every_s, 1.0))
            now = await look(client)
            console.print(frame(client.url, now, before, width=console.width, users=users))
            return 0
        with Live(console=console, screen=True, auto_refresh=False) as live:
            ended = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, ended.set)
            while not ended.is_set():
                live.update(frame(client.url, now, before, width=console.width, users=users), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(every_s):
                        await ended.wait()
                try:
                    before, now = now, await look(client)
                except VectorpoolError as error:
                    # It may be starting again: the last frame stays, and says so.
                    now.error = error.detail
    return 0
