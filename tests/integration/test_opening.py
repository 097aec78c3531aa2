"""Every way in which a store can be wrong at start ends in one sentence that says what to change."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support.moto import Moto
from tests.support.radosgw import Radosgw
from tests.support.scripted_s3 import ScriptedS3, own_certificate
from vectorpool.errors import Misconfigured, StoreRefused
from vectorpool.objects import refusals
from vectorpool.objects.bucket import BucketDenied, BucketElsewhere, BucketUnavailable
from vectorpool.objects.metered import MeteredBucket
from vectorpool.objects.probe import probe
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings


async def refused(settings: Settings, **bounds: float) -> str:
    """Return the sentence with which a store is refused."""
    with pytest.raises(StoreRefused) as caught:
        opened = open_bucket(settings)
        try:
            await probe(opened, **bounds)
        finally:
            await opened.close()
    detail = caught.value.detail
    assert "\n" not in detail
    assert len(detail) < 400, detail
    return detail


@pytest.mark.parametrize("server_fixture", ["moto_server", "radosgw_server"])
async def test_a_missing_bucket_is_named(request: pytest.FixtureRequest, server_fixture: str) -> None:
    """A bucket that does not exist is refused by its name, and later reads are denied, not answered as missing."""
    server = request.getfixturevalue(server_fixture)
    settings = server.settings("s3://no-such-bucket-here/prefix")
    detail = await refused(settings)
    assert "s3://no-such-bucket-here/prefix does not exist" in detail
    assert "VECTORPOOL_STORE" in detail
    with pytest.raises(BucketDenied):
        await open_bucket(settings).get("users/1/x")
    with pytest.raises(BucketDenied):
        await open_bucket(settings).list_objects("users/", limit=1)


@pytest.mark.parametrize("change", [{"s3_secret_access_key": "wrong-secret"}, {"s3_access_key_id": "NOBODYHASTHISKEY"}])
async def test_wrong_credentials_are_named(radosgw_server: Radosgw, radosgw_url: str, change: dict[str, str]) -> None:
    """A wrong key or secret is refused with the credentials as what to check, and no secret in the sentence."""
    detail = await refused(radosgw_server.settings(radosgw_url, **change))
    assert "Check the credentials" in detail
    assert "wrong-secret" not in detail


async def test_a_refused_connection_is_named() -> None:
    """An endpoint where nobody listens is refused, with the endpoint's setting as what to check."""
    with socket.socket() as sock:
        # Bound but not listening: nobody else can take the port, and connections to it are refused.
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        detail = await refused(_at(f"http://127.0.0.1:{port}"))
    assert "connection refused" in detail
    assert "VECTORPOOL_S3_ENDPOINT" in detail


async def test_a_deaf_endpoint_is_given_up() -> None:
    """An endpoint that accepts and never answers is given up within the probe's bound, not the request's."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        detail = await refused(_at(f"http://127.0.0.1:{port}", store_timeout_s=600), timeout_s=1)
    assert "did not answer within 1 s" in detail


async def test_an_endpoint_that_is_no_s3_is_refused() -> None:
    """A web server that answers everything with 200 and a page is not taken for a store."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"HTTP/1.1 200 OK\r\nETag: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(page, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await refused(_at(f"http://127.0.0.1:{port}", store_retries=0))
    server.close()


def _at(endpoint: str, **changes: object) -> Settings:
    return Settings(
        **{
            "store": "s3://bucket",
            "s3_endpoint": endpoint,
            "s3_access_key_id": "k",
            "s3_secret_access_key": "s",
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ('"s3://bucket/prefix"', "quotes"),
        ("'.vectorpool/store'", "quotes"),
        ('s3://bucket/prefix"', "quotes"),
        ("s3:/bucket/prefix", "Write s3://bucket/prefix"),
        ("s3:bucket", "Write s3://bucket"),
        ("s3//bucket", "Write s3://bucket"),
        ("S3:/bucket", "Write s3://bucket"),
        ("file:/srv/store", "Write file:///srv/store"),
        ("server:/export", "file://, s3://"),
        ("C:\\store", "file://, s3://"),
        ("$HOME/store", "variable"),
        ("${STORE}", "variable"),
        ("~no-such-user/store", "home is not known"),
    ],
)
def test_a_mistyped_store_does_not_become_a_directory(
    store: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was meant as a URL, or as another path, is refused with what to write, and nothing is created."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Misconfigured) as caught:
        open_bucket(Settings(store=store))
    assert said in caught.value.detail and "store = " in caught.value.detail
    assert list(tmp_path.iterdir()) == []


async def test_a_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~/x is a directory in the home, and a name with a colon can be written as ./name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for store, path in (("~/x", "x"), ("./s3:y", "s3:y")):
        bucket = open_bucket(Settings(store=store))
        await bucket.close()
        assert (tmp_path / path).is_dir()


@pytest.mark.parametrize("answer", [(301, "PermanentRedirect"), (307, "TemporaryRedirect")])
async def test_a_bucket_in_another_region_is_told_in_s3s_words(answer: tuple[int, str]) -> None:
    """S3's sentence, which the redirect's body holds, is in the refusal with the setting to change, and once."""
    async with ScriptedS3() as s3:
        for method in ("PUT", "GET", "HEAD", "DELETE"):
            s3.always[method] = answer
        detail = await refused(s3.settings())
        assert f"{answer[1]}: The words of {answer[1]}" in detail
        assert "VECTORPOOL_S3_REGION" in detail and "network" not in detail
        bucket = s3.bucket()
        for _ in range(3):
            with pytest.raises(BucketElsewhere, match=f"The words of {answer[1]}"):
                await bucket.list_objects("", limit=1)
        asked = len(s3.requests)
        with pytest.raises(BucketElsewhere, match=f"The words of {answer[1]}"):
            await bucket.put("a", b"1")
        assert len(s3.requests) == asked + 1, "the words are asked for once"


@pytest.mark.parametrize("code", ["AuthorizationHeaderMalformed", "IllegalLocationConstraintException"])
async def test_a_wrong_region_without_a_redirect_names_the_setting(code: str) -> None:
    """A refusal that is about the region does not send an operator to the credentials."""
    async with ScriptedS3() as s3:
        s3.always["PUT"] = (400, code)
        detail = await refused(s3.settings())
    assert f"The words of {code}" in detail and "VECTORPOOL_S3_REGION" in detail and "credentials" not in detail


async def test_a_refusal_says_each_thing_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An answer and the log's line name the store once, keep S3's words, and say what to do."""
    async with ScriptedS3() as s3:
        s3.always["PUT"] = (403, "AccessDenied")
        bucket = MeteredBucket(s3.bucket())
        with pytest.raises(BucketDenied) as caught:
            await bucket.put("users/1/x", b"x")
    detail = refusals.unavailable(bucket.url, "writing a document", caught.value).detail
    assert detail.count(bucket.url) == 1 and "AccessDenied: The words of AccessDenied. Check its credentials" in detail
    (line,) = caplog.messages
    assert line.count(bucket.url) == 1 and ".." not in line + detail and "refusals before" not in line
    assert line.endswith("Check its credentials and permissions: get, list, put and delete.")
    (tmp_path / "file").touch()
    with pytest.raises(StoreRefused) as refusal:
        open_bucket(Settings(store=str(tmp_path / "file")))
    assert refusal.value.detail.count("cannot be used") == 1 and "VECTORPOOL_STORE" in refusal.value.detail


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_bundle_that_is_none_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_CA_BUNDLE is read at the start, and refused by its name."""
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(Misconfigured, match="AWS_CA_BUNDLE"):
        open_bucket(_at("https://127.0.0.1:1"))


async def test_a_ca_bundle_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 whose certificate a company's own authority signed is reached with AWS_CA_BUNDLE, and not without."""
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    certificate = own_certificate(tmp_path)
    async with ScriptedS3(certificate) as s3:
        assert "certificate" in await refused(s3.settings(store_retries=0))
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        await probe(s3.bucket())


async def test_a_gateway_that_dies_and_returns() -> None:
    """A killed store is unavailable, not empty; after its return what was acknowledged is there."""
    from tests.support import radosgw

    if missing := radosgw.missing_programs():
        pytest.skip(f"radosgw does not run here: not installed: {', '.join(missing)}")
    server = await asyncio.to_thread(radosgw.Radosgw.start)
    try:
        settings = server.settings(f"s3://{server.make_bucket()}", store_retries=1)
        opened = open_bucket(settings)
        await opened.create("users/1/kept", b"kept")
        await asyncio.to_thread(server.kill)
        for call in (opened.get("users/1/kept"), opened.create("users/1/other", b""), opened.list_objects("", limit=1)):
            with pytest.raises(BucketUnavailable):
                await call
        await asyncio.to_thread(server.restart)
        assert (await opened.get("users/1/kept")).data == b"kept"
        await opened.close()
    finally:
        await asyncio.to_thread(server.close)


async def test_credentials_come_from_the_aws_chain(
    moto_server: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without explicit keys boto3's chain is asked: a profile's file serves, and no credentials are named."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    url = f"s3://{moto_server.make_bucket()}/x"
    settings = moto_server.settings(url, s3_access_key_id=None, s3_secret_access_key=None)
    assert "No AWS credentials were found" in await refused(settings)
    credentials.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    opened = open_bucket(settings)
    await opened.create("k", b"v")
    assert (await opened.get("k")).data == b"v"
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "AWS_PROFILE" in await refused(settings)


async def test_buckets_of_one_store_are_apart(radosgw_server: Radosgw, radosgw_url: str) -> None:
    """Two prefixes of one S3 bucket do not see each other, and keys are relative to the prefix."""
    one = open_bucket(radosgw_server.settings(f"{radosgw_url}/one"))
    other = open_bucket(radosgw_server.settings(f"{radosgw_url}/one-more"))
    whole = open_bucket(radosgw_server.settings(radosgw_url))
    await one.create("users/1/x", b"1")
    await other.create("users/1/x", b"2")
    assert [info.key for info in await one.list_objects("", limit=9)] == ["users/1/x"]
    assert [info.key for info in await whole.list_objects("", limit=9)] == ["one-more/users/1/x", "one/users/1/x"]


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("", "store is empty"),
        ("http://example.org/bucket", "unknown scheme http://"),
        ("s4://bucket", "unknown scheme s4://"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/prefix", "names no bucket"),
        ("s3://bucket/a//b", "prefix that cannot be used"),
        ("s3://bucket/../b", "prefix that cannot be used"),
        ("file://host/path", "names the host host"),
        ("memory://", "VECTORPOOL_SHARDS=-1"),
    ],
)
def test_a_store_that_cannot_be_understood_is_misconfigured(store: str, said: str) -> None:
    """A store that is no URL of ours is refused before anything is sent, without repeating a secret."""
    with pytest.raises(Misconfigured) as caught:
        open_bucket(Settings(store=store, s3_access_key_id="k", s3_secret_access_key="s"))
    assert said in caught.value.detail
    assert "secret@" not in caught.value.detail


def test_half_a_pair_of_keys_is_misconfigured() -> None:
    """A key without its secret is refused, rather than silently completed from elsewhere."""
    with pytest.raises(Misconfigured, match="both"):
        open_bucket(Settings(store="s3://bucket", s3_access_key_id="k"))


async def test_directories_open_by_path_and_by_url(tmp_path: Path) -> None:
    """A plain directory and its file:// URL are the same store, made if it is not there."""
    path = tmp_path / "a b#1" / "store"
    plain = open_bucket(Settings(store=str(path)))
    await plain.create("users/1/x", b"x")
    by_url = open_bucket(Settings(store=path.as_uri()))
    assert (await by_url.get("users/1/x")).data == b"x"
    assert plain.url == by_url.url


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A store below a file is refused with the setting that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match="VECTORPOOL_STORE"):
        open_bucket(Settings(store=str(tmp_path / "file" / "store")))
