"""Admission: connections in all and of each caller, and callers behind proxies."""

from __future__ import annotations

import pytest

from vectorpool.errors import Misconfigured, TooManyConnections
from vectorpool.front.admission import Admission, group_of
from vectorpool.settings import Settings


def test_a_caller_and_all_have_bounds() -> None:
    """The one too many is refused with the setting's name; a closed connection makes room."""
    admission = Admission(Settings(max_connections=3, max_connections_per_caller=2))
    for _ in range(2):
        admission.admit("10.0.0.1")
    with pytest.raises(TooManyConnections, match="max_connections_per_caller"):
        admission.admit("10.0.0.1")
    admission.admit("10.0.0.2")
    with pytest.raises(TooManyConnections, match=r"\(max_connections\)"):
        admission.admit("10.0.0.3")
    admission.leave("10.0.0.1")
    admission.admit("10.0.0.3")
    for caller in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        admission.leave(caller)
    assert (admission.connections, admission.callers) == (0, 0)


def test_a_subscriber_of_ipv6_is_one_caller() -> None:
    """Addresses that share their first 64 bits are one caller; an IPv4 address in IPv6's form is itself."""
    assert group_of("2001:db8:1:2::5") == group_of("2001:db8:1:2:ffff::9") != group_of("2001:db8:1:3::5")
    assert group_of("::ffff:10.0.0.1") == group_of("10.0.0.1") == "10.0.0.1"
    assert Admission(Settings()).caller_of("2001:db8:1:2::5") == group_of("2001:db8:1:2::5")


@pytest.mark.parametrize(
    ("values", "caller"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["198.51.100.1, nonsense"], None),
        (["10.0.0.1"], None),
        ([""], None),
        ([], None),
    ],
)
def test_a_trusted_proxy_names_the_caller(values: list[str], caller: str | None) -> None:
    """It is the last address that is no trusted proxy; what a caller wrote before it means nothing."""
    admission = Admission(Settings(trusted_proxies="10.0.0.0/8, fd00::/8"))
    assert admission.caller_of("10.1.2.3") is None
    assert admission.caller_of("fd00::1") is None
    headers = [(b"host", b"x"), *[(b"x-forwarded-for", value.encode()) for value in values]]
    assert admission.forwarded_caller(headers) == caller


def test_others_are_not_trusted() -> None:
    """Without the setting each peer is a caller, loopback too."""
    admission = Admission(Settings())
    assert admission.caller_of("127.0.0.1") == "127.0.0.1"
    assert admission.caller_of("10.1.2.3") == "10.1.2.3"


def test_what_is_no_network_is_refused_at_the_start() -> None:
    """The sentence repeats the part that is wrong."""
    with pytest.raises(Misconfigured, match=r"'proxy\.internal'"):
        Admission(Settings(trusted_proxies="10.0.0.1, proxy.internal"))
