"""From settings to a bucket: which store a URL names, and how it is reached.

``open_bucket`` sends nothing; ``probe`` asks the store whether it can be used.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from obstore.store import AzureStore, GCSStore, S3Store

from vectorpool.environment import check_quotes, check_working_directory, local_path
from vectorpool.errors import Misconfigured, StoreRefused
from vectorpool.objects.bucket import Bucket, BucketDenied, check_prefix
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.refusals import capitalised
from vectorpool.objects.remote import RemoteBucket, client_options, retry_config
from vectorpool.objects.s3_keys import S3Keys
from vectorpool.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore, S3Config, S3Credential

_SCHEME: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
# A URL that lost a slash, or its colon: "s3:/b", "s3:b", "s3//b". A directory of such a name is given as "./s3:b".
_NEARLY_A_URL: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(?!//)[/\\]*(.*)|^(file|s3|gs|az)//+(.*)", re.IGNORECASE)
_KINDS: Final = "a directory, or a file://, s3://, gs:// or az:// URL"


def open_bucket(settings: Settings) -> Bucket:
    """Return the bucket that ``settings.store`` names.

    Raises Misconfigured for a store's URL that cannot be parsed, StoreRefused for a directory that cannot be used
    and for S3 without credentials.
    """
    store = settings.store.strip()
    if not store:
        raise Misconfigured(f"store is empty. Set VECTORPOOL_STORE or --store to {_KINDS}.")
    check_quotes("store", store)
    match = _SCHEME.match(store)
    if match is None:
        return _open_directory(store, settings)
    opener = _OPENERS.get(match[1].lower())
    if opener is None:
        raise Misconfigured(f"store = {_shown(store)!r} has the unknown scheme {match[1]}://. Use {_KINDS}.")
    # A bucket's prefix may hold # and ?, which urlsplit would parse as other parts of a URL.
    return opener(urlsplit(store.replace("#", "%23").replace("?", "%3F")), settings)


def place_of(settings: Settings) -> tuple[str, str]:
    """Return the bucket's name, and the prefix in it ("" or with a closing slash); both empty for a local store."""
    match = _SCHEME.match(settings.store.strip())
    if match is None or match[1].lower() in ("file", "memory"):
        return "", ""
    name, prefix, _ = _bucket_and_prefix(urlsplit(settings.store.strip().replace("#", "%23").replace("?", "%3F")))
    return name, prefix


def _shown(store: str) -> str:
    """Return a store's URL without the credentials that it may contain."""
    return re.sub(r"//[^/@]*@", "//***@", store)


def _open_directory(path: str, settings: Settings) -> Bucket:
    if (nearly := _NEARLY_A_URL.match(path)) is not None:
        scheme, rest = (nearly[1], nearly[2]) if nearly[1] else (nearly[3], nearly[4])
        slashes = ":///" if scheme.lower() == "file" else "://"
        url = f"{scheme.lower()}{slashes}{rest}" if scheme.lower() in _OPENERS else _KINDS
        raise Misconfigured(
            f"store = {_shown(path)!r} is nearly a URL. Write {url}; a directory of that name is ./{_shown(path)}."
        )
    path = local_path("store", path)
    check_working_directory("store", path)
    try:
        return DirectoryBucket(path, fsync=settings.store_fsync)
    except BucketDenied as error:
        raise StoreRefused(
            f"{capitalised(str(error))}. Give a directory that can be written in VECTORPOOL_STORE or --store."
        ) from error


def _open_file(url: SplitResult, settings: Settings) -> Bucket:
    if url.netloc not in ("", "localhost"):
        raise Misconfigured(
            f"store = file://{url.netloc}{url.path} names the host {url.netloc}. Write file:/// and an absolute path."
        )
    return _open_directory(unquote(url.path) or "/", settings)


def _open_memory(url: SplitResult, settings: Settings) -> Bucket:
    if settings.shards != -1:
        raise Misconfigured("store = memory:// belongs to one process. Set VECTORPOOL_SHARDS=-1 with it.")
    return MemoryBucket(name=url.netloc)


def _bucket_and_prefix(url: SplitResult) -> tuple[str, str, str]:
    """Return the bucket's name, its prefix ("" or with a closing slash), and the URL to show."""
    shown = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{unquote(url.path)}"
    if not url.netloc or "@" in url.netloc:
        raise Misconfigured(
            f"store = {shown} names no bucket. Write {url.scheme}://BUCKET or {url.scheme}://BUCKET/PREFIX."
        )
    prefix = unquote(url.path).strip("/")
    try:
        check_prefix(prefix + "/" if prefix else "")
    except ValueError as error:
        raise Misconfigured(f"store = {shown} has a prefix that cannot be used: {error}. Change the prefix.") from None
    return url.netloc, prefix + "/" if prefix else "", shown


def _remote(store: ObjectStore, shown: str, prefix: str, settings: Settings, keys: S3Keys | None = None) -> Bucket:
    return RemoteBucket(
        store, url=shown, prefix=prefix, timeout_s=settings.store_timeout_s, retries=settings.store_retries, keys=keys
    )


def _open_s3(url: SplitResult, settings: Settings) -> Bucket:
    bucket, prefix, shown = _bucket_and_prefix(url)
    endpoint = settings.s3_endpoint
    provider, region = _s3_credentials(settings)
    path_style = settings.s3_path_style
    if path_style is None:
        # A certificate for *.s3.amazonaws.com does not cover a bucket with a dot in its name.
        path_style = endpoint is not None or "." in bucket
    config: S3Config = {"virtual_hosted_style_request": not path_style}
    if region:
        config["region"] = region
    if endpoint:
        config["endpoint"] = _s3_endpoint(endpoint, bucket, path_style=path_style)
    store = S3Store(
        bucket,
        config=config,
        client_options=client_options(
            timeout_s=settings.store_timeout_s,
            allow_http=bool(endpoint and endpoint.lower().startswith("http://")),
            ca_bundle=_ca_bundle(),
        ),
        retry_config=retry_config(),
        credential_provider=provider,
    )
    keys = S3Keys(
        bucket,
        region=region,
        endpoint=endpoint,
        path_style=path_style,
        credentials=provider,
        timeout_s=settings.store_timeout_s,
    )
    return _remote(store, shown, prefix, settings, keys)


def _ca_bundle() -> bytes | None:
    """Return the certificates that AWS_CA_BUNDLE names, as every AWS tool reads it; raise Misconfigured."""
    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        return None
    try:
        bundle = Path(local_path("AWS_CA_BUNDLE", path)).read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"AWS_CA_BUNDLE = {path} cannot be read: {error.strerror}. Name a file of certificates in PEM."
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in bundle:
        raise Misconfigured(f"AWS_CA_BUNDLE = {path} holds no certificate. Name a file of certificates in PEM.")
    return bundle


def _s3_endpoint(endpoint: str, bucket: str, *, path_style: bool) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misconfigured(
            f"s3_endpoint = {_shown(endpoint)!r} is not an http:// or https:// URL. Change VECTORPOOL_S3_ENDPOINT."
        )
    # obstore needs the bucket in the host name if it is not in the path.
    host = parts.netloc if path_style else f"{bucket}.{parts.netloc}"
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _s3_credentials(settings: Settings) -> tuple[Callable[[], S3Credential], str | None]:
    """Return a credential provider for obstore, and the region if one is known.

    Explicit keys go through a provider too: given as configuration, obstore would join them with a session
    token that it finds in the environment.
    """
    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    if (key is None) != (secret is None):
        raise Misconfigured("Set both of s3_access_key_id and s3_secret_access_key, or neither of them.")
    if key is not None and secret is not None:
        credential: S3Credential = {
            "access_key_id": key,
            "secret_access_key": secret,
            "token": None,
            "expires_at": None,
        }
        return lambda: credential, settings.s3_region
    # boto3 is slow to import, and only S3 without explicit credentials needs it.
    session = importlib.import_module("vectorpool.objects.credentials").SessionCredentials()
    return session, settings.s3_region or session.region


def _open_gcs(url: SplitResult, settings: Settings) -> Bucket:
    bucket, prefix, shown = _bucket_and_prefix(url)
    store = GCSStore(
        bucket,
        client_options=client_options(timeout_s=settings.store_timeout_s, allow_http=False),
        retry_config=retry_config(),
    )
    return _remote(store, shown, prefix, settings)


def _open_azure(url: SplitResult, settings: Settings) -> Bucket:
    container, prefix, shown = _bucket_and_prefix(url)
    try:
        store = AzureStore(
            container,
            client_options=client_options(timeout_s=settings.store_timeout_s, allow_http=False),
            retry_config=retry_config(),
        )
    except Exception as error:
        raise Misconfigured(
            f"store = {shown} cannot be opened ({error}). Set AZURE_STORAGE_ACCOUNT_NAME and its credentials."
        ) from error
    return _remote(store, shown, prefix, settings)


_OPENERS: Final[dict[str, Callable[[SplitResult, Settings], Bucket]]] = {
    "file": _open_file,
    "memory": _open_memory,
    "s3": _open_s3,
    "gs": _open_gcs,
    "az": _open_azure,
}
