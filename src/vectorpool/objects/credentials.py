"""AWS credentials as every AWS tool finds them: boto3's chain of environment, profiles, SSO and roles.

``import boto3`` takes half a second, so ``opening`` imports this module only for an s3:// bucket without explicit
credentials.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import boto3
import botocore.exceptions

from vectorpool.errors import StoreRefused
from vectorpool.sources import SYSTEM, Sources

if TYPE_CHECKING:
    from obstore.store import S3Credential

# botocore renews temporary credentials in their last 15 minutes, when it is asked; so it is asked this often.
REFRESH_S: Final = 300


class SessionCredentials:
    """A refreshing credential provider for obstore, over a boto3 session.

    Raises StoreRefused from the constructor if the chain finds nothing.
    """

    def __init__(self, *, sources: Sources = SYSTEM) -> None:
        self._sources = sources
        try:
            session = boto3.Session()
            self.region = session.region_name
            credentials = session.get_credentials()
        except botocore.exceptions.BotoCoreError as error:
            raise StoreRefused(f"AWS credentials cannot be read: {error}. Check AWS_PROFILE and ~/.aws.") from error
        if credentials is None:
            raise StoreRefused(
                "No AWS credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role, "
                "or VECTORPOOL_S3_ACCESS_KEY_ID and VECTORPOOL_S3_SECRET_ACCESS_KEY."
            )
        self._credentials = credentials

    def __call__(self) -> S3Credential:
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
