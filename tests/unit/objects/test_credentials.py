"""Keys in the environment serve without boto3, exactly where boto3 would have found the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from vectorpool.objects.credentials import SessionCredentials, static_credentials

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which AWS tools find nothing, here and for boto3."""
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_CREDENTIAL_EXPIRATION"):
        monkeypatch.delenv(name, raising=False)
    files = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in files.items():
        monkeypatch.setenv(name, value)
    return files


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_SESSION_TOKEN": "token"},
        {"AWS_SECURITY_TOKEN": "older", "AWS_SESSION_TOKEN": "token"},
        {"AWS_DEFAULT_REGION": "eu-central-1"},
    ],
)
def test_the_environment_says_what_boto3_says(
    nothing: dict[str, str], more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Key, secret, token and region are those that a boto3 session finds in the same environment."""
    environ = {**nothing, **KEYS, **more}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    found_by_boto3 = session.get_credentials()
    assert found_by_boto3 is not None
    frozen = found_by_boto3.get_frozen_credentials()
    found = SessionCredentials(environ=environ)
    assert found.region == session.region_name
    assert found() == {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": None,
    }


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_PROFILE": "work"},
        {"AWS_DEFAULT_PROFILE": "work"},
        {"AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"},
        {"AWS_SECRET_ACCESS_KEY": ""},
        {"AWS_ACCESS_KEY_ID": ""},
    ],
)
def test_whatever_else_could_count_is_left_to_boto3(nothing: dict[str, str], more: dict[str, str]) -> None:
    """A profile, an expiry or half a pair of keys is boto3's to judge."""
    assert static_credentials({**nothing, **KEYS, **more}) is None


def test_a_configuration_file_is_left_to_boto3(nothing: dict[str, str]) -> None:
    """A configuration file may name the region, so it is read unless the environment does."""
    Path(nothing["AWS_CONFIG_FILE"]).write_text("[default]\nregion = eu-west-3\n")
    assert static_credentials({**nothing, **KEYS}) is None
    assert static_credentials({**nothing, **KEYS, "AWS_DEFAULT_REGION": "eu-central-1"}) is not None


def test_boto3_is_not_loaded_for_keys_in_the_environment(nothing: dict[str, str]) -> None:
    """A process whose keys are in its environment does not pay for boto3."""
    code = (
        "import sys\n"
        "from vectorpool.objects.credentials import SessionCredentials\n"
        "assert SessionCredentials()()['access_key_id'] == 'key'\n"
        "assert not {'boto3', 'botocore'} & set(sys.modules), 'boto3 was loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**nothing, **KEYS})


def test_keys_that_were_rotated_in_a_file_are_read_again(nothing: dict[str, str]) -> None:
    """The next request after a change has the new keys; a file that cannot be read leaves those that were known."""
    file = Path(nothing["AWS_SHARED_CREDENTIALS_FILE"])

    def write(key: str) -> None:
        other = file.with_suffix(".new")
        other.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-{key}\n")
        other.replace(file)

    write("first")
    credentials = SessionCredentials()
    assert credentials()["access_key_id"] == "first"
    write("second")
    assert (credentials()["access_key_id"], credentials()["secret_access_key"]) == ("second", "secret-second")
    for broken in ("[default]\naws_access_key_id = thi", "[defau", ""):
        file.write_text(broken)
        assert credentials()["access_key_id"] == "second", broken
    file.unlink()
    assert credentials()["access_key_id"] == "second"
    write("third")
    assert credentials()["access_key_id"] == "third"


def test_files_that_did_not_change_are_not_read_again(nothing: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request costs two looks at files, and no session of boto3."""
    file = Path(nothing["AWS_SHARED_CREDENTIALS_FILE"])
    file.write_text("[default]\naws_access_key_id = k\naws_secret_access_key = s\n")
    credentials = SessionCredentials()
    monkeypatch.setattr(boto3, "Session", None)
    assert [credentials()["access_key_id"] for _ in range(3)] == ["k"] * 3
