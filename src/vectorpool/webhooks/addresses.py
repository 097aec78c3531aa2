"""Where webhooks may go: the URL is a caller's, the connection is made from inside of the operator's network.

An address must be public, or in a network that the operator allowed. A name is looked up once for an attempt, every
address of the answer is checked, and the connection is made to a checked address: a name that changes its meaning
meanwhile (DNS rebinding) gains nothing. IPv4 inside IPv6 is taken out and judged as IPv4. Addresses at which clouds
serve credentials are refused even inside an allowed network, unless the operator allowed that one address by itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from vectorpool.errors import Misconfigured, WebhookRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL: Final = 2048
# Of one name; more are not looked at, and the name is refused.
_MOST_ADDRESSES: Final = 64
# Credentials of the machine: EC2, Google and Azure; ECS tasks and EKS pods; EC2 on IPv6; Alibaba; Oracle; Azure's host.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
    )
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Target(msgspec.Struct, frozen=True):
    """A URL in the parts that a request needs. ``host`` is a name or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _port(self.scheme) else f"{host}:{self.port}"

    def at(self, address: Address) -> str:
        """Return the URL with an address in the place of the name."""
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{self.scheme}://{host}:{self.port}{self.path}"


class AddressGuard:
    """Where webhooks may go: to public addresses, and to ``networks``, which are separated by commas."""

    def __init__(self, networks: str = "") -> None:
        """Raise Misconfigured for what is no network."""
        self._networks: list[Network] = []
        for text in filter(None, (part.strip() for part in networks.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise Misconfigured(
                    f"{text!r} in webhook_networks is no address and no network ({error}). Write one as 10.1.0.0/16."
                ) from error

    def target(self, url: str) -> Target:
        """Return the parts of a URL, without a look-up of its name. Raises WebhookRefused."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            address = _literal(host)
        except ValueError as error:
            raise WebhookRefused(f"The URL of the webhook cannot be read ({error}). Send an https:// URL.") from error
        reason = _fault(url, parts, host)
        if reason:
            raise WebhookRefused(f"The URL of the webhook {reason}. Send an https:// URL of a public server.")
        if address is not None:
            self.check(address)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Target(parts.scheme, host, port or _port(parts.scheme), path)

    def allows(self, address: Address) -> bool:
        """Return whether webhooks may go to an address."""
        plain = _plain(address)
        if plain in _METADATA:
            return any(plain in network and network.num_addresses == 1 for network in self._networks)
        return _is_public(plain) or any(plain in network for network in self._networks)

    def check(self, address: Address) -> None:
        """Raise WebhookRefused if webhooks may not go to an address."""
        if not self.allows(address):
            raise WebhookRefused(
                "The webhook's server has an address of a private, local or reserved network. Send the URL of a public "
                "server, or have the operator allow its network (webhook_networks)."
            )

    async def resolve(self, target: Target) -> list[Address]:
        """Return the addresses of a target, all checked. Raises WebhookRefused, and OSError without an answer."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise WebhookRefused("The name of the webhook's server is no name. Send an https:// URL.") from error
        texts = dict.fromkeys(str(info[4][0]) for info in found)
        if len(texts) > _MOST_ADDRESSES:
            raise WebhookRefused("The name of the webhook's server has too many addresses. Send another URL.")
        addresses = [ipaddress.ip_address(text) for text in texts]
        for address in addresses:
            self.check(address)
        return addresses


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _fault(url: str, parts: SplitResult, host: str) -> str:
    if len(url) > LONGEST_URL:
        return f"has more than {LONGEST_URL} characters"
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        return "has characters that no URL has"
    if parts.scheme not in ("http", "https") or not host:
        return "is no http:// or https:// URL with a host"
    if parts.username is not None or parts.password is not None:
        return "has a name or a password in it"
    if "%" in host or "\\" in url:
        return "has a host that no server has"
    if parts.port == 0:
        return "has no port that a server listens on"
    return ""


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    """Return the address that packets go to in the end: IPv4 that is written as IPv6 is IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    if address.is_multicast or not address.is_global or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Teredo goes to an IPv4 address behind somebody's router; the lowest 96 bits of zero are old forms of IPv4.
        return not address.is_site_local and address.teredo is None and int(address) >> 32 != 0
    return True
