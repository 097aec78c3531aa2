"""The picture of ``vectorpool top`` in the documents, of a service that is busy: ``python -m tests.pictures``.

It starts a service of two shards, sends it queries and writes of some users on both protocols, and renders a frame as
the terminal shows it, with rich's own export. So the picture changes when the view does, and shows nothing that was not
there.
"""

from __future__ import annotations

import asyncio
import io
import random
import tempfile
from pathlib import Path

import httpx
from rich.console import Console

from tests.support.service import NAMED, Service
from vectorpool.cli.service_client import open_client
from vectorpool.cli.top import frame, look

IMAGES = Path(__file__).parents[1] / "docs" / "images"
USERS = [f"user-{number}" for number in range(12)]
DIMENSION = 64
SECONDS = 6.0


def _vector(dice: random.Random) -> list[float]:
    return [dice.random() for _ in range(DIMENSION)]


async def _fill(client: httpx.AsyncClient, user: str, dice: random.Random) -> None:
    (await client.post(f"/users/{user}/collections", json={"name": "notes"})).raise_for_status()
    records = [{"id": f"r{number}", "embedding": _vector(dice), "document": f"text {number}"} for number in range(200)]
    (await client.put(f"/users/{user}/collections/notes/records", json={"records": records})).raise_for_status()


async def _use(client: httpx.AsyncClient, dice: random.Random, ended: asyncio.Event) -> None:
    """Send requests as users do: a few users most of them, nine of ten reads."""
    while not ended.is_set():
        user = USERS[min(int(dice.expovariate(0.4)), len(USERS) - 1)]
        notes = f"/users/{user}/collections/notes"
        if dice.random() < 0.1:
            record = {"id": f"r{dice.randrange(400)}", "embedding": _vector(dice)}
            await client.put(f"{notes}/records", json={"records": [record]})
        elif dice.random() < 0.3:
            await client.get(f"/api/v2/tenants/{user}/databases/default_database/collections")
        else:
            await client.post(f"{notes}/query", json={"embeddings": [_vector(dice)], "n_results": 10})


async def _draw(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url, headers=NAMED, timeout=60) as client:
        dice = random.Random(1)
        await asyncio.gather(*(_fill(client, user, dice) for user in USERS))
        ended = asyncio.Event()
        users = [asyncio.create_task(_use(client, random.Random(number), ended)) for number in range(6)]
        async with open_client(service.url, None) as operator:
            await asyncio.sleep(SECONDS / 3)
            before = await look(operator)
            await asyncio.sleep(SECONDS)
            now = await look(operator)
        ended.set()
        await asyncio.gather(*users)
    console = Console(record=True, width=120, height=40, force_terminal=True, file=io.StringIO())
    console.print(frame("http://127.0.0.1:8000", now, before, width=120, users=10))
    IMAGES.mkdir(exist_ok=True)
    console.save_svg(str(IMAGES / "top.svg"), title="vectorpool top", unique_id="top")


def main() -> None:
    """Draw it."""
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), "--shards", "2").start()
        try:
            asyncio.run(_draw(service))
        finally:
            service.close()


if __name__ == "__main__":
    main()
