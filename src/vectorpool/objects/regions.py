"""What S3 says when it is asked in the wrong region.

S3 answers such a request with a redirect that names no place, and explains it in the body. obstore drops that body, so
the question is put again, unsigned, for the sake of the explanation.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from typing import Final

# How obstore says it.
BARE_REDIRECT: Final = "Received redirect without LOCATION"
_TIMEOUT_S: Final = 3.0
_MOST_BYTES: Final = 8192
_URL: Final = re.compile(r"performing \w+ (https?://\S+) in ")
_CODE: Final = re.compile(r"<Code>([^<]{1,80})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,300})</Message>")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}")
_UNEXPLAINED: Final = "S3 answered with a redirect, as it does for a bucket in another region"


def own_words(text: str) -> str:
    """Return what S3 says to the request in one of obstore's messages; blocks for at most a few seconds."""
    found = _URL.search(text)
    if found is None:
        return _UNEXPLAINED
    # The query could hold nothing that matters here.
    request = urllib.request.Request(found[1].partition("?")[0])
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return _UNEXPLAINED
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(_MOST_BYTES).decode("utf-8", "replace")
            region = error.headers.get("x-amz-bucket-region", "")
    except (OSError, ValueError):
        return _UNEXPLAINED
    code, message = _CODE.search(body), _MESSAGE.search(body)
    if code is None or message is None:
        return _UNEXPLAINED
    where = f" The bucket's region is {region}." if _REGION.fullmatch(region) else ""
    return f"{code[1]}: {message[1]}{where}"
