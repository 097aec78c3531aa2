"""AWS credentials as every AWS tool finds them: boto3's chain of environment, profiles, SSO and roles.

``import boto3`` takes 0.06 to 0.3 s at start and 8 MB in each process. So ``stores`` imports this module only for an
s3:// bucket without explicit credentials, and keys in the environment, the first link of the chain, are read here
without boto3 unless another source could take precedence.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vectorpool.errors import StoreRefused
from vectorpool.sources import SYSTEM, Sources

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from obstore.store import S3Credential

_log = logging.getLogger(__name__)

# botocore renews temporary credentials in their last 15 minutes, but only during a call. This is the interval of calls.
REFRESH_S: Final = 300
# If one of these is set, only botocore can say which keys apply.
_ELSEWHERE: Final = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CREDENTIAL_EXPIRATION")


class SessionCredentials:
    """A refreshing credential provider for obstore, over what a boto3 session finds.

    ``region`` is the session's too. Raises StoreRefused from the constructor if the chain finds nothing.
    """

    def __init__(self, *, sources: Sources = SYSTEM, environ: Mapping[str, str] | None = None) -> None:
        self._sources = sources
        environ = os.environ if environ is None else environ
        self._static = static_credentials(environ)
        self.region: str | None = environ.get("AWS_DEFAULT_REGION") or None
        if self._static is None:
            self._files = (_credentials_file(environ), _config_file(environ))
            # First, so that a change while they are read is seen by the next call.
            self._seen = self._look()
            self.region, self._credentials = _ask_boto3()

    def __call__(self) -> S3Credential:
        if self._static is not None:
            return self._static
        self._read_again()
        frozen = self._credentials.get_frozen_credentials()
        if frozen.access_key is None or frozen.secret_key is None:
            raise PermissionError("the AWS credentials have no key")
        expires_at = datetime.fromtimestamp(self._sources.now_ms() / 1000, UTC) + timedelta(seconds=REFRESH_S)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": expires_at,
        }

    def _read_again(self) -> None:
        """Ask boto3 anew if a file changed: what its session has read from a file, it never reads again.

        A file that cannot be read now, because it is being written, leaves the credentials as they are.
        """
        if (look := self._look()) == self._seen:
            return
        self._seen = look
        try:
            _, self._credentials = _ask_boto3()
        except StoreRefused as error:
            _log.error("the credentials that were known stay: %s", error.detail)
        else:
            _log.info("the AWS credentials were read again, because their files changed")

    def _look(self) -> list[tuple[int, int, int] | None]:
        """Return what tells one content of the files from another, without reading them."""
        return [_look(file) for file in self._files]


def _look(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def static_credentials(environ: Mapping[str, str]) -> S3Credential | None:
    """Return the keys in the environment, or None if boto3 might find other keys, an expiry or a region."""
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret or any(environ.get(name) for name in _ELSEWHERE):
        return None
    if not environ.get("AWS_DEFAULT_REGION") and _config_file(environ).exists():
        return None
    # The older name takes precedence, as in botocore.
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN") or None
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}


def _config_file(environ: Mapping[str, str]) -> Path:
    # Path.expanduser raises for a user without a home, as in containers; os.path.expanduser keeps the ~.
    return Path(os.path.expanduser(environ.get("AWS_CONFIG_FILE") or "~/.aws/config"))  # noqa: PTH111 - see above


def _credentials_file(environ: Mapping[str, str]) -> Path:
    named = environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return Path(os.path.expanduser(named))  # noqa: PTH111 - see above


def _ask_boto3() -> tuple[str | None, Credentials]:
    boto3: Any = importlib.import_module("boto3")
    failure: type[Exception] = importlib.import_module("botocore.exceptions").BotoCoreError
    try:
        session = boto3.Session()
        region: str | None = session.region_name
        credentials: Credentials | None = session.get_credentials()
    except failure as error:
        raise StoreRefused(f"AWS credentials cannot be read: {error}. Check AWS_PROFILE and ~/.aws.") from error
    if credentials is None:
        raise StoreRefused(
            "No AWS credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, "
            "or VECTORPOOL_S3_ACCESS_KEY_ID and VECTORPOOL_S3_SECRET_ACCESS_KEY."
        )
    return region, credentials
