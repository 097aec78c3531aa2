"""S3 by verbatim keys: for pages of a listing that obstore refuses as a whole, and to delete what they show.

obstore takes a key apart into segments. One key of a page with an empty segment, ``.``, ``..`` or a control character
makes it fail the page, and it shows a directory marker, ``a/``, as an object ``a``. So such a page is asked for again
and read here. boto3's client is no help: it refuses the answer of a store that repeats a control character in it.

botocore signs and sends. It costs a process about 0.3 s and 10 MB, so it is imported when the first such page is met,
in a thread, and never without one.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as Xml

from vectorpool.objects.bucket import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import S3Credential

_CONNECT_TIMEOUT_S: Final = 3.0
_PAGE: Final = 1000
# Keys in an answer are encoded, so these can only be a parameter that the store repeats as it came.
_NOT_IN_XML: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|&#(?:x0*1?[0-9a-fA-F]|0*(?:[12]?[0-9]|3[01]));")
_LAST: Final = "\U0010ffff"


class S3Keys:
    """One bucket by verbatim keys. Every method blocks, and raises OSError with the store's status and code."""

    def __init__(
        self,
        bucket: str,
        *,
        region: str | None,
        endpoint: str | None,
        path_style: bool,
        credentials: Callable[[], S3Credential],
        timeout_s: float,
    ) -> None:
        self._region = region or "us-east-1"
        parts = urlsplit(endpoint or f"https://s3.{self._region}.amazonaws.com")
        host, path = parts.netloc, parts.path.rstrip("/")
        self._root = (
            f"{parts.scheme}://{host}{path}/{bucket}" if path_style else f"{parts.scheme}://{bucket}.{host}{path}"
        )
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._session: Any = None

    def page(self, prefix: str, limit: int, after: str | None) -> list[ObjectInfo]:
        """Return at most ``limit`` objects, up to 1,000, below a prefix after a key, in key order, keys verbatim."""
        asked = {"prefix": prefix, "max-keys": str(min(limit, _PAGE)), **({"start-after": after} if after else {})}
        return [
            ObjectInfo(
                unquote(_text(found, "Key")),
                int(_text(found, "Size")),
                _text(found, "ETag"),
                int(datetime.fromisoformat(_text(found, "LastModified")).timestamp() * 1000),
            )
            for found in self._list(asked).iterfind("{*}Contents")
        ]

    def prefixes(self, prefix: str) -> list[str]:
        """Return every common prefix directly below a prefix, with its closing slash."""
        found, after = self.prefix_page(prefix, _PAGE, None)
        while after is not None:
            page, after = self.prefix_page(prefix, _PAGE, after)
            found += page
        return found

    def prefix_page(self, prefix: str, limit: int, after: str | None) -> tuple[list[str], str | None]:
        """Return at most ``limit`` common prefixes after a key, and the key after which the next page begins, if any.

        A page may hold fewer before the last one, because objects directly below the prefix count too.
        """
        asked = {
            "prefix": prefix,
            "delimiter": "/",
            "max-keys": str(limit),
            **({"start-after": after} if after else {}),
        }
        answer = self._list(asked)
        page = [unquote(_text(common, "Prefix")) for common in answer.iterfind("{*}CommonPrefixes")]
        keys = [unquote(_text(one, "Key")) for one in answer.iterfind("{*}Contents")]
        if answer.findtext("{*}IsTruncated") != "true" or not (page or keys):
            return page, None
        # Not the store's own token, which may hold characters that are taken out of the answer.
        return page, max([name + _LAST for name in page] + keys)

    def delete(self, key: str) -> None:
        """Delete an object; it is no error if it is not there."""
        self._send("DELETE", quote(key, safe="/~"), "")

    def _list(self, asked: dict[str, str]) -> Xml.Element:
        asked = {"list-type": "2", "encoding-type": "url", **asked}
        query = "&".join(f"{name}={quote(asked[name], safe='~')}" for name in sorted(asked))
        body = _NOT_IN_XML.sub(b"", self._send("GET", "", query))
        try:
            return Xml.fromstring(body)
        except Xml.ParseError as error:
            raise OSError(f"HTTP error: the listing is not XML ({error})") from error

    def _send(self, method: str, path: str, query: str) -> bytes:
        """Sign and send a request; ``path`` and ``query`` are encoded."""
        auth, requests, failures, credentials = map(
            importlib.import_module,
            ("botocore.auth", "botocore.awsrequest", "botocore.exceptions", "botocore.credentials"),
        )
        now = self._credentials()
        keys = credentials.Credentials(now["access_key_id"], now["secret_access_key"], now.get("token"))
        request = requests.AWSRequest(method=method, url=f"{self._root}/{path}" + (f"?{query}" if query else ""))
        # Any payload is signed in a header, which stores ask for.
        request.context["payload_signing_enabled"] = True
        auth.S3SigV4Auth(keys, "s3", self._region).add_auth(request)
        try:
            answer = self._connected().send(request.prepare())
            body: bytes = answer.content
        except (failures.BotoCoreError, failures.HTTPClientError) as error:
            raise OSError(f"HTTP error: {error}") from error
        if answer.status_code >= 300:
            # In the form of obstore's messages, which RemoteBucket reads.
            raise OSError(f"status code: {answer.status_code} {body[:2000].decode(errors='replace')}")
        return body

    def _connected(self) -> Any:
        with self._lock:
            if self._session is None:
                session = importlib.import_module("botocore.httpsession").URLLib3Session
                timeouts = (min(_CONNECT_TIMEOUT_S, self._timeout_s), self._timeout_s)
                self._session = session(verify=os.environ.get("AWS_CA_BUNDLE") or True, timeout=timeouts)
            return self._session


def _text(element: Xml.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
