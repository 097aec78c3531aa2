"""Where webhooks may go, by address and by URL."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from vectorpool.errors import Misconfigured, WebhookRefused
from vectorpool.webhooks.addresses import AddressGuard

REFUSED = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.64.1.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "198.18.0.1",
    "192.0.2.1",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_addresses_inside_are_refused(text: str) -> None:
    """Private, local, reserved and metadata addresses are refused, in each way to write IPv4 as IPv6."""
    assert not AddressGuard().allows(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700:4700::1111"])
def test_public_addresses_are_allowed(text: str) -> None:
    """Public addresses need no setting."""
    assert AddressGuard().allows(ipaddress.ip_address(text))


def test_an_operator_allows_networks() -> None:
    """A network of the setting is allowed, no other one is, and the machine's credentials only by their address."""
    guard = AddressGuard("10.1.0.0/16, 127.0.0.1,169.254.0.0/16")
    allowed = {
        text: guard.allows(ipaddress.ip_address(text)) for text in ("10.1.9.9", "10.2.0.1", "127.0.0.1", "127.0.0.2")
    }
    assert allowed == {"10.1.9.9": True, "10.2.0.1": False, "127.0.0.1": True, "127.0.0.2": False}
    assert not guard.allows(ipaddress.ip_address("169.254.169.254"))
    assert AddressGuard("169.254.169.254").allows(ipaddress.ip_address("169.254.169.254"))
    with pytest.raises(Misconfigured, match="webhook_networks"):
        AddressGuard("10.1.0.0/99")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "example.com/hook",
        "http:///hook",
        "https://user:secret@example.com/",
        "https://127.0.0.1/",
        "https://[::1]:8000/",
        "https://[::1/",
        "https://example.com:99999/",
        "https://example.com:0/",
        "https://exa mple.com/",
        "https://example.com/\r\nhost: other",
        "https://example.com\\@127.0.0.1/",
        "https://[fe80::1%25eth0]/",
        "https://example.com/" + "a" * 3000,
    ],
)
def test_urls_that_no_webhook_has_are_refused(url: str) -> None:
    """A URL is refused before its name is looked up, if no name could make it good."""
    with pytest.raises(WebhookRefused):
        AddressGuard().target(url)


async def test_a_name_with_one_address_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a name are judged, not only the first."""

    async def answer(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer, raising=False)
    guard = AddressGuard()
    with pytest.raises(WebhookRefused):
        await guard.resolve(guard.target("http://example.com/"))


def test_a_target_keeps_the_name_for_the_server() -> None:
    """The connection goes to the address; the server hears the name, and the port if it is not the scheme's."""
    target = AddressGuard().target("https://example.com:8443/a?b=c#d")
    assert target.authority == "example.com:8443"
    assert target.at(ipaddress.ip_address("2606:4700::1")) == "https://[2606:4700::1]:8443/a?b=c"
    assert AddressGuard().target("http://example.com").authority == "example.com"
