"""The files that deploy the service: what they name exists, what they pin is pinned, and their numbers fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from tests.support import minio
from vectorpool.configuration import describe_settings, load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = {row.env for row in describe_settings()}
# Variables that are no settings: of the command line, of compose.yaml, of the pipeline.
OTHERS = {
    *("VECTORPOOL_TOKEN", "VECTORPOOL_SERVICE", "VECTORPOOL_CONFIG"),
    *("VECTORPOOL_PUBLISH", "VECTORPOOL_MINIO_IMAGE", "VECTORPOOL_SMOKE_TOKEN", "VECTORPOOL_TEST_CONTAINERS"),
}
SERVICES = sorted((DEPLOY / "cloudrun").glob("service-*.yaml"))
GIB = 1024**3


def deploying_files() -> list[Path]:
    """Return every file that deploys, as text."""
    named = [ROOT / "compose.yaml", ROOT / "Dockerfile", *(ROOT / ".github" / "workflows").iterdir()]
    return named + [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".png"]


def terraform(place: str) -> dict[str, Any]:
    """Return one main.tf as hcl2 reads it."""
    with (DEPLOY / "terraform" / place / "main.tf").open() as file:
        return hcl2.load(file)


def environment_of(service: Path) -> dict[str, str]:
    """Return the plain variables of a Cloud Run service."""
    container = yaml.safe_load(service.read_text())["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.mark.parametrize("path", deploying_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_variable_is_a_setting(path: Path) -> None:
    """A misspelled variable would stop the start."""
    named = set(re.findall(r"\bVECTORPOOL_[A-Z0-9_]+\b", path.read_text()))
    assert named <= SETTINGS | OTHERS, named - SETTINGS - OTHERS


def test_images_and_actions_are_pinned() -> None:
    """Images of others by digest, actions by SHA."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert "build" in service or re.search(r"@sha256:[0-9a-f]{64}\}?$", service["image"]), name
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert minio.IMAGE in services["minio"]["image"]
    gateway = yaml.safe_load((DEPLOY / "helm" / "vectorpool" / "values.yaml").read_text())["gateway"]["image"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", gateway["digest"])
    for workflow in (ROOT / ".github" / "workflows").iterdir():
        for used in re.findall(r"uses: (.*)", workflow.read_text()):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{workflow.name}: {used}"


def test_one_check_is_required_and_waits_for_all() -> None:
    """The check ``Required`` needs every job of CI but the audit, whose data base may change on any day."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert set(jobs["required"]["needs"]) == set(jobs) - {"required", "audit"}
    assert jobs["required"]["steps"][0]["run"].count("success") == len(jobs["required"]["needs"])


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_cloud_run_service_fits_its_memory(service: Path) -> None:
    """Files of all shards and the processes' own memory are together below the limit; draining ends before the kill."""
    spec = yaml.safe_load(service.read_text())["spec"]["template"]["spec"]
    limit = int(spec["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi")) * GIB
    settings = load_settings(environ=environment_of(service))
    files = settings.shards * (settings.open_bytes + settings.warm_bytes)
    assert settings.memory_limit_bytes is not None
    assert files + settings.memory_limit_bytes <= limit
    assert settings.drain_s < 10
    assert settings.max_body_bytes <= 32 * 1024**2


def test_terraform_says_what_the_service_file_says() -> None:
    """Cloud Run by Terraform has the numbers of the service file."""
    settings = {}
    for block in terraform("google")["locals"]:
        settings |= {unquoted(name): unquoted(value) for name, value in block["settings"].items() if name[:2] != "__"}
    expected = environment_of(DEPLOY / "cloudrun" / "service-gcs.yaml")
    store = settings.pop("VECTORPOOL_STORE")
    assert store.startswith("gs://") and expected.pop("VECTORPOOL_STORE").startswith("gs://")
    assert settings == expected


def unquoted(value: Any) -> str:
    """Return a string of hcl2's without the quotes that some of its versions keep."""
    return str(value).strip('"')


@pytest.mark.parametrize("place", ["google", "aws"])
def test_terraform_uses_what_it_declares(place: str) -> None:
    """Every variable is declared and used, and every resource that is named exists."""
    folder = DEPLOY / "terraform" / place
    texts = {path.name: path.read_text() for path in folder.glob("*.tf")}
    for name in texts:
        with (folder / name).open() as file:
            hcl2.load(file)
    whole = "\n".join(texts.values())
    declared = set(re.findall(r'^variable "(\w+)"', whole, re.MULTILINE))
    assert declared == set(re.findall(r"\bvar\.(\w+)", whole))
    resources = set(re.findall(r'^resource "(\w+)" "(\w+)"', whole, re.MULTILINE))
    kinds = {kind for kind, _ in resources}
    for kind, name in re.findall(r"(?<![.\w])((?:google|aws|random)_\w+)\.(\w+)", whole):
        assert kind not in kinds or (kind, name) in resources, f"{kind}.{name}"


def test_policies_give_no_more_than_objects() -> None:
    """The service's policy reads, writes and deletes objects below one prefix, and manages no bucket.

    Listing is of the whole bucket: with a condition on the prefix, S3 answers 403 for each object that is missing.
    """
    policy = json.loads((DEPLOY / "policies" / "aws-service.json").read_text())
    actions: set[str] = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        assert statement["Resource"] in ("arn:aws:s3:::BUCKET/PREFIX/*", "arn:aws:s3:::BUCKET")
        actions |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    assert actions == {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"}
    role = yaml.safe_load((DEPLOY / "policies" / "gcs-role.yaml").read_text())["includedPermissions"]
    assert role == [f"storage.objects.{each}" for each in ("create", "delete", "get", "list")]
    for lifecycle in ("aws-lifecycle.json", "gcs-lifecycle.json"):
        # No rule may take an object that is in use.
        assert not re.search(r'"(Days|age)": *(?!1\b)\d', (DEPLOY / "policies" / lifecycle).read_text())
