"""The connections of an instance, counted in all and for each caller, so that one caller cannot take them all.

A caller is the peer's address; of IPv6 the first 64 bits, since one subscriber has them all. Behind a trusted proxy it
is the last address of ``X-Forwarded-For`` that is not itself a trusted proxy, and what is counted is its requests under
way, because proxies share their connections among callers. A proxy's own connections are bounded in all only.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from typing import Final

from vectorpool.errors import Misconfigured, TooManyConnections
from vectorpool.settings import Settings
from vectorpool.telemetry.families import CONNECTIONS, CONNECTIONS_LIMIT
from vectorpool.telemetry.figures import Sample

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Connections beyond the bounds that wait for their one refusal, or for an answer about health. More are cut at once.
MAX_TURNED_AWAY: Final = 64

_FORWARDED: Final = b"x-forwarded-for"
_IPV6_BITS: Final = 64


def parse_networks(text: str) -> list[Network]:
    """Return the networks of ``trusted_proxies``; raise Misconfigured for one that is none."""
    networks = []
    for part in text.split(","):
        if part := part.strip():
            try:
                networks.append(ipaddress.ip_network(part, strict=False))
            except ValueError:
                raise Misconfigured(
                    f"trusted_proxies holds {part!r}, which is no address and no network. Write 10.0.0.0/8 or 10.1.2.3."
                ) from None
    return networks


def _parsed(text: str) -> Address | None:
    text = text.strip()
    if text.count(":") == 1:
        # Some proxies add the caller's port.
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Admission:
    """Counts connections, and the requests of callers behind proxies."""

    def __init__(self, settings: Settings) -> None:
        self._max_connections = settings.max_connections
        self._max_per_caller = settings.max_connections_per_caller
        self._trusted = parse_networks(settings.trusted_proxies)
        self._connections = 0
        self._of_callers: Counter[str] = Counter()
        self.turned_away = 0

    @property
    def connections(self) -> int:
        """Connections that were admitted and are not closed yet."""
        return self._connections

    @property
    def callers(self) -> int:
        """Callers that are counted at the moment."""
        return len(self._of_callers)

    def samples(self) -> list[Sample]:
        """Return the figures of the connections."""
        return [
            Sample(CONNECTIONS.name, (), self._connections),
            Sample(CONNECTIONS_LIMIT.name, (), self._max_connections),
        ]

    def caller_of(self, address: str) -> str | None:
        """Return the name under which a peer is counted, or None if it is a trusted proxy."""
        parsed = _parsed(address)
        if parsed is None:
            return address
        return None if self._is_trusted(parsed) else _group(parsed)

    def forwarded_caller(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Return the address for which a trusted proxy sends a request; None if it names none."""
        values = [value.decode("latin-1") for name, value in headers if name == _FORWARDED]
        for part in reversed(",".join(values).split(",")):
            parsed = _parsed(part)
            if parsed is None:
                return None
            if not self._is_trusted(parsed):
                return str(parsed)
        return None

    def admit(self, caller: str | None) -> None:
        """Count a connection of a caller, None for a trusted proxy. Raises TooManyConnections."""
        if self._connections >= self._max_connections:
            raise TooManyConnections(
                f"{self._max_connections} connections are open on this instance (max_connections). Try again later."
            )
        if caller is not None:
            self.take(caller)
        self._connections += 1

    def leave(self, caller: str | None) -> None:
        """Forget a connection that was admitted."""
        self._connections -= 1
        if caller is not None:
            self.release(caller)

    def take(self, caller: str) -> None:
        """Count a connection, or a request through a proxy, for a caller. Raises TooManyConnections."""
        if self._of_callers[caller] >= self._max_per_caller:
            raise TooManyConnections(
                f"{self._max_per_caller} connections of this caller are open (max_connections_per_caller). Close some, "
                "or try again later."
            )
        self._of_callers[caller] += 1

    def release(self, caller: str) -> None:
        """Forget what was taken for a caller."""
        self._of_callers[caller] -= 1
        if self._of_callers[caller] <= 0:
            # Callers come and go: one without connections takes no memory.
            del self._of_callers[caller]

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def group_of(address: str) -> str:
    """Return the name under which an address is counted."""
    parsed = _parsed(address)
    return address if parsed is None else _group(parsed)


def _group(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, _IPV6_BITS), strict=False))
    return str(address)
