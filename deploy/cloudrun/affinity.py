"""One cookie jar for each hash bucket of users: how a backend makes a user's requests reach one instance of Cloud Run.

Cloud Run knows session affinity by a cookie only: who sends the cookie of an answer again reaches the instance that
gave it, as long as that instance runs. A backend that calls for many users is one caller, and one cookie for all of
them would send every user to one instance. So users are put into buckets by a hash, and each bucket has a cookie jar.
The bucket of a user is the same in every process of the backend, but each process has cookies of its own: with
several, let them share the jars (``cookies``, ``keep``), for instance in Redis, or give each a part of the users.

Copy this file into the backend; it needs httpx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import httpx

# Enough that buckets spread evenly over tens of instances, and few enough that each is asked often.
JARS = 1024


def bucket_of(user_id: str, jars: int = JARS) -> int:
    """Return the hash bucket of a user, 0 to ``jars`` - 1."""
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "big") % jars


class UsersClient:
    """Sends requests for users, each with the cookies of the user's bucket, over one pool of connections.

    ``cookies`` gives the cookies that another process keeps for a bucket, and ``keep`` takes those that an answer set.
    Both are called with the bucket's number, and may be left out. Not for several threads at once.
    """

    def __init__(
        self,
        url: str,
        *,
        jars: int = JARS,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
        cookies: Callable[[int], Mapping[str, str]] | None = None,
        keep: Callable[[int, Mapping[str, str]], None] | None = None,
    ) -> None:
        self._client = httpx.Client(base_url=url, headers=headers, transport=transport, timeout=60)
        self._number = jars
        self._jars: dict[int, dict[str, str]] = {}
        self._cookies = cookies
        self._keep = keep

    def request(self, user_id: str, method: str, path: str, **arguments: object) -> httpx.Response:
        """Send a request for a user; the path begins with a slash. Raises httpx's errors."""
        bucket = bucket_of(user_id, self._number)
        if bucket not in self._jars:
            self._jars[bucket] = dict(self._cookies(bucket)) if self._cookies else {}
        jar = self._jars[bucket]
        # The client's own jar belongs to no bucket.
        self._client.cookies.clear()
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())} if jar else {}
        answer = self._client.request(method, path, headers=cookie, **arguments)  # type: ignore[arg-type]
        given = dict(answer.cookies)
        if given and any(jar.get(name) != value for name, value in given.items()):
            jar.update(given)
            if self._keep:
                self._keep(bucket, dict(jar))
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
