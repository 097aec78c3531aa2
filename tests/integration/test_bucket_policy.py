"""The least rights that ``deploy/policies`` names are enough for all that an instance does, and no more."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.radosgw import Radosgw
from tests.support.service import Service

POLICY = Path(__file__).parents[2] / "deploy" / "policies" / "aws-service.json"


def test_an_instance_needs_no_more_than_the_shipped_policy(tmp_path: Path, radosgw_server: Radosgw) -> None:
    """With that policy alone: documents, ingest, writes, a backup, a fork, deletion; another prefix stays closed."""
    user = f"least-{uuid.uuid4().hex[:8]}"
    keys = radosgw_server.make_user(user)
    bucket, prefix = radosgw_server.make_bucket(), "vectorpool"
    policy = json.loads(POLICY.read_text().replace("BUCKET", bucket).replace("PREFIX", prefix))
    listing = policy["Statement"][1]
    # Ceph 16 asks for the right to delete several objects at the bucket; S3 asks at each object.
    policy["Statement"].append({**listing, "Action": "s3:DeleteObject", "Sid": "Ceph"})
    for statement in policy["Statement"]:
        statement["Principal"] = {"AWS": [f"arn:aws:iam:::user/{user}"]}
    radosgw_server.client().put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    radosgw_server.client().put_object(Bucket=bucket, Key="elsewhere/secret", Body=b"not theirs")

    limited = boto3.client(
        "s3",
        endpoint_url=radosgw_server.endpoint,
        region_name=radosgw_server.region,
        aws_access_key_id=keys[0],
        aws_secret_access_key=keys[1],
    )
    for refused in (
        lambda: limited.get_object(Bucket=bucket, Key="elsewhere/secret"),
        lambda: limited.put_object(Bucket=bucket, Key="elsewhere/mine", Body=b""),
        lambda: limited.delete_bucket_policy(Bucket=bucket),
        lambda: limited.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            refused()

    env = radosgw_server.environ(f"s3://{bucket}/{prefix}")
    env |= {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]}
    service = Service(tmp_path, "--shards", "1", store=f"s3://{bucket}/{prefix}", env=env).start()
    try:
        home = "/users/42/avatars/7"
        service.ok("PUT", f"{home}/documents/hut.md", content=b"# Prices\n\nA night costs 31 crowns.")
        assert service.ok("POST", f"{home}/ingest?wait_s=60").json()["state"] == "done"
        assert "31 crowns" in service.ok("POST", f"{home}/query", json={"text": "What does a night cost?"}).text
        service.ok("PUT", "/users/42/backups/first", json={})
        service.ok("POST", "/users/42/fork", json={"user_id": "43"})
        service.ok("GET", "/admin/users")
        service.ok("POST", "/admin/users/42/scrub")
        service.ok("DELETE", "/admin/users/42")
    finally:
        service.stop()
