"""Keys that no request can name, put there by other programs: listings name them and go on, deletions take them."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from obstore.store import S3Store

from tests.conftest import s3_url
from tests.support.commitlogs import Author
from tests.support.store import S3Server
from vectorpool.commitlog.log import CommitLog
from vectorpool.documents import DocumentLibrary
from vectorpool.objects.bucket import Bucket, BucketUnavailable
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.remote import RemoteBucket, client_options, retry_config
from vectorpool.objects.stores import open_bucket
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings

# What S3 holds, and no file system can.
SEGMENTS = ["a//b", "./c", "d/../e", "/f"]
# What both hold.
CONTROL = ["g\nh", "i\x01", "j\x7f"]


@dataclass
class Store:
    """A bucket, a way around it to write any key, and what it can hold."""

    bucket: Bucket
    put: Callable[[str, bytes], Awaitable[None]]
    unusable: list[str]


@pytest.fixture(params=["directory", "moto", "radosgw"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, _buckets: dict[str, str]) -> AsyncIterator[Store]:
    """A store of each kind."""
    if request.param == "directory":
        root = tmp_path / "store"

        async def write(key: str, data: bytes) -> None:
            path = Path(os.fsdecode(os.fsencode(root)) + "/" + key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

        yield Store(DirectoryBucket(root), write, [*CONTROL, "k\udcff"])
        return
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    url = s3_url(server, _buckets)
    name, _, prefix = url.removeprefix("s3://").partition("/")

    async def put(key: str, data: bytes) -> None:
        await asyncio.to_thread(server.client().put_object, Bucket=name, Key=f"{prefix}/{key}", Body=data)

    # moto finds no route for dots and line breaks.
    unusable = [*SEGMENTS, *CONTROL] if request.param == "radosgw" else ["a//b", *CONTROL[1:]]
    bucket = open_bucket(server.settings(url))
    yield Store(bucket, put, unusable)
    await bucket.close()


async def test_a_listing_goes_on_and_names_what_is_unusable(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Every key is there, verbatim, on pages of any size; the log names each that cannot be used."""
    keys = sorted([f"p/{name}" for name in [*store.unusable, "good", "zz/good"]])
    for key in keys:
        await store.put(key, b"x")
    with caplog.at_level(logging.WARNING):
        assert [info.key for info in await store.bucket.list_objects("p/", limit=50)] == keys
    assert sum("is passed over" in record.message for record in caplog.records) == len(store.unusable)
    for limit in (1, 2, 3):
        found: list[str] = []
        while page := await store.bucket.list_objects("p/", limit=limit, after=found[-1] if found else None):
            found += [info.key for info in page]
        assert found == keys
    for key in keys:
        await store.bucket.delete_listed(key)
    assert await store.bucket.list_objects("p/", limit=50) == []


async def test_a_directory_marker_is_no_object_of_another_name(store: Store) -> None:
    """A key that ends with a slash is listed with it; in a file system, a directory without files is nothing."""
    if isinstance(store.bucket, DirectoryBucket):
        await store.put("m/empty", b"")
        (Path(url2pathname(urlsplit(store.bucket.url).path)) / "m" / "sub").mkdir()
        assert [info.key for info in await store.bucket.list_objects("m/", limit=9)] == ["m/empty"]
        return
    for key in ("m/", "m/sub/", "m/empty"):
        await store.put(key, b"")
    assert [info.key for info in await store.bucket.list_objects("m/", limit=9)] == ["m/", "m/empty", "m/sub/"]


async def test_one_key_hides_no_avatar_and_no_user(store: Store, tmp_path: Path) -> None:
    """Documents, avatars, users and the users whose logs are verified are listed, and the rest is reported by name."""
    bucket, library = store.bucket, DocumentLibrary(store.bucket, Settings())
    await library.put("42", "7", "good.txt", b"x")
    await library.put("43", "7", "good.txt", b"x")
    for name in store.unusable:
        await store.put(f"users/42/avatars/7/vectorstore_data/{name}", b"x")
        await store.put(f"users/42/avatars/{name}/vectorstore_data/x.txt", b"x")
        await store.put(f"users/{name}/avatars/7/vectorstore_data/x.txt", b"x")
    page = await library.list_documents("42", "7")
    assert [document.path for document in page.documents] == ["good.txt"]
    assert len(page.refused) == len(store.unusable)
    assert all(refused.name.isprintable() and refused.reason for refused in page.refused)
    avatars, refused = await library.scan_avatars("42")
    assert "7" in avatars and refused
    assert {"42", "43"} <= set(await library.list_users())
    factory = StoreFactory(bucket, Settings(replica_dir=str(tmp_path / "replicas")))
    try:
        assert {"42", "43"} <= set(await factory.list_users())
    finally:
        factory.close()
    # What is called a//b/vectorstore_data lies in no avatar's documents, whoever meant it so.
    deleted = await library.delete_of_user("42")
    left = [info.key for info in await bucket.list_objects("users/42/avatars/", limit=50)]
    assert all(key.split("/")[4] != "vectorstore_data" for key in left)
    assert deleted == 1 + 2 * len(store.unusable) - len(left)
    assert [d.path async for d in library.iterate("43", "7")] == ["good.txt"]


async def test_a_log_with_such_a_key_is_read_verified_and_ended(store: Store, tmp_path: Path) -> None:
    """A stranger's key in the log's own prefix hinders nobody, is no commit, and goes with the log."""
    author = Author(tmp_path, store.bucket)
    author.write("chroma.sqlite3", b"x" * 9000)
    await author.commit()
    for name in [*store.unusable, "sub/999999999000"]:
        await store.put(f"users/42/vectorstore/log/{name}", b"x")
    _, hydrated = await author.hydrate()
    assert hydrated.position.seq == 1
    log = CommitLog(store.bucket, "42", settings=author.settings)
    report = await log.scrub()
    assert report.ok and report.newest_seq == 1
    author.write("chroma.sqlite3", b"y" * 9000)
    await author.commit()
    await log.end()
    left = [info.key for info in await store.bucket.list_objects("users/42/vectorstore/", limit=50)]
    assert all(key.partition("/log/")[2][:12].isdigit() or "/floor/" in key for key in left), left


async def test_a_store_without_verbatim_keys_says_which_key_it_is(
    radosgw_server: S3Server, _buckets: dict[str, str]
) -> None:
    """As on GCS and Azure: the page fails with the key's name and what to do; markers are no objects."""
    name, _, prefix = s3_url(radosgw_server, _buckets).removeprefix("s3://").partition("/")
    plain = S3Store(
        name,
        config={"endpoint": radosgw_server.endpoint, "region": "us-east-1", "virtual_hosted_style_request": False},
        client_options=client_options(timeout_s=10, allow_http=True),
        retry_config=retry_config(),
        access_key_id=radosgw_server.access_key_id,
        secret_access_key=radosgw_server.secret_access_key,
    )
    bucket = RemoteBucket(plain, url="s3://x", prefix=f"{prefix}/", timeout_s=10, retries=1)
    client = radosgw_server.client()
    for key in ("sub/", "empty", "full"):
        client.put_object(Bucket=name, Key=f"{prefix}/m/{key}", Body=b"x" if key == "full" else b"")
    assert [info.key for info in await bucket.list_objects("m/", limit=9)] == ["m/empty", "m/full"]
    client.put_object(Bucket=name, Key=f"{prefix}/n/a//b", Body=b"x")
    with pytest.raises(BucketUnavailable, match=r"n/a//b.*Rename or delete it"):
        await bucket.list_objects("n/", limit=9)


_IMPORTS = """
import asyncio, sys
from vectorpool.objects.stores import open_bucket
from vectorpool.configuration import load_settings
async def main():
    bucket = open_bucket(load_settings())
    await bucket.put("a/b", b"x")
    print([info.key for info in await bucket.list_objects("a/", limit=9)], await bucket.list_prefixes(""))
asyncio.run(main())
print("boto3" in sys.modules, "botocore" in sys.modules)
"""


def test_boto3_is_not_imported_without_such_a_key(moto_server: S3Server, _buckets: dict[str, str]) -> None:
    """Its time and memory are paid where a page needs it, and nowhere else."""
    url = s3_url(moto_server, _buckets)
    environ = {**os.environ, **moto_server.environ(url)}
    done = subprocess.run([sys.executable, "-c", _IMPORTS], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['a/b'] ['a']", "False False"], done.stderr
