"""Settings: where a value comes from, what it may be, and how a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vectorpool.configuration import SECRETS, describe_settings, load_settings
from vectorpool.errors import Misconfigured
from vectorpool.limits import LimitSettings
from vectorpool.settings import Settings


def test_every_setting_is_described() -> None:
    """Each field has a row with a sentence, a variable, a flag and a type."""
    rows = describe_settings()
    # Those of limits are inherited, and come last.
    inherited = LimitSettings.__struct_fields__
    declared = [name for name in Settings.__struct_fields__ if name not in inherited]
    assert [row.name for row in rows] == [*declared, *inherited]
    for row in rows:
        assert len(row.description) >= 5, row.name
        assert row.env == f"VECTORPOOL_{row.name.upper()}"
        flag = "--" + row.name.replace("_", "-")
        if row.name in SECRETS:
            # Arguments are no secret: the flag names a file, and a file that is a setting has that setting's flag.
            flag = "" if f"{row.name}_file" in Settings.__struct_fields__ else f"{flag}-file"
        assert row.flag == flag
        assert row.type, row.name


def test_the_defaults_are_valid() -> None:
    """Every default is within the bounds of its own setting."""
    defaults = Settings()
    assert msgspec.convert(msgspec.to_builtins(defaults), Settings) == defaults
    assert load_settings(environ={}) == defaults


def test_precedence_is_default_file_environment_flag(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    config = tmp_path / "vectorpool.toml"
    config.write_text("port = 1001\nopen-slots = 11\nhost = 'file'\n")
    environ = {"VECTORPOOL_PORT": "1002", "VECTORPOOL_HOST": "environment", "VECTORPOOL_CONFIG": str(config)}
    settings = load_settings({"port": 1003, "host": None}, environ=environ)
    assert (settings.port, settings.host, settings.open_slots) == (1003, "environment", 11)
    assert load_settings(environ=environ).port == 1002
    assert load_settings(environ={}, config=config).port == 1001
    assert load_settings(environ={"VECTORPOOL_PORT": ""}).port == Settings().port


def test_text_becomes_the_type_of_its_setting() -> None:
    """The environment's text is read as numbers and booleans."""
    settings = load_settings(
        environ={
            "VECTORPOOL_STORE_FSYNC": "true",
            "VECTORPOOL_DRAIN_S": "2.5",
            "VECTORPOOL_S3_PATH_STYLE": "false",
            "VECTORPOOL_DURABILITY": "write-back",
        }
    )
    assert (settings.store_fsync, settings.drain_s, settings.s3_path_style) == (True, 2.5, False)
    assert settings.durability == "write-back"


def _out_of_bounds() -> list[tuple[str, str]]:
    cases = []
    fields = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    for name, schema in fields.items():
        if "minimum" in schema:
            cases.append((name, str(schema["minimum"] - 1)))
        if "exclusiveMinimum" in schema:
            cases.append((name, str(schema["exclusiveMinimum"])))
        if "maximum" in schema:
            cases.append((name, str(schema["maximum"] + 1)))
        if "enum" in schema:
            cases.append((name, "something-else"))
        if schema.get("type") in ("integer", "number", "boolean"):
            cases.append((name, "many"))
    return cases


@pytest.mark.parametrize(("name", "value"), _out_of_bounds())
def test_bounds_are_enforced_and_named(name: str, value: str) -> None:
    """A value beyond its bound is refused with the setting, the value and the variable it came from."""
    variable = f"VECTORPOOL_{name.upper()}"
    with pytest.raises(Misconfigured) as caught:
        load_settings(environ={variable: value})
    assert name in caught.value.detail
    assert value in caught.value.detail
    assert variable in caught.value.detail


def test_numbers_are_bounded_below() -> None:
    """No number is without a lower bound."""
    fields = msgspec.json.schema(Settings)["$defs"]["Settings"]["properties"]
    numbers = {name: schema for name, schema in fields.items() if schema.get("type") in ("integer", "number")}
    assert len(numbers) > 20
    unbounded = [name for name, s in numbers.items() if not {"minimum", "exclusiveMinimum"} & s.keys()]
    assert unbounded == []


def test_the_origin_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    """File, environment and flag are each named as the place to change."""
    config = tmp_path / "c.toml"
    config.write_text("port = 99999\n")
    for arguments, origin in [
        ({"environ": {}, "config": config}, str(config)),
        ({"environ": {"VECTORPOOL_PORT": "99999"}}, "VECTORPOOL_PORT"),
        ({"flags": {"port": 99999}, "environ": {}}, "--port"),
    ]:
        with pytest.raises(Misconfigured) as caught:
            load_settings(**arguments)
        assert "port" in caught.value.detail
        assert origin in caught.value.detail


def test_an_unknown_variable_is_refused() -> None:
    """A misspelled variable is named, not ignored; other programs' variables are left alone."""
    with pytest.raises(Misconfigured, match="VECTORPOOL_PROT"):
        load_settings(environ={"VECTORPOOL_PROT": "1"})
    load_settings(environ={"PORT": "1", "AWS_REGION": "x"})


@pytest.mark.parametrize("variable", ["VECTORPOOL_PROT", "VECTORPOOL_TOKEN_FILE", "VECTORPOOL_DIMENSION"])
def test_the_nearest_settings_are_named(variable: str, tmp_path: Path) -> None:
    """The refusal of an unknown name says which setting is spelled like it, in the environment and in a file."""
    meant = {"PROT": "PORT", "TOKEN_FILE": "TOKENS_FILE", "DIMENSION": "MAX_DIMENSION"}
    name = meant[variable.removeprefix("VECTORPOOL_")]
    with pytest.raises(Misconfigured, match=f"Did you mean VECTORPOOL_{name}"):
        load_settings(environ={variable: "1"})
    config = tmp_path / "c.toml"
    config.write_text(f"{variable.removeprefix('VECTORPOOL_').lower().replace('_', '-')} = 1\n")
    with pytest.raises(Misconfigured, match=f"Did you mean {name.lower()}"):
        load_settings(environ={}, config=config)


OF_KUBERNETES = {
    "VECTORPOOL_SERVICE_HOST": "10.43.7.1",
    "VECTORPOOL_SERVICE_PORT": "8000",
    "VECTORPOOL_SERVICE_PORT_HTTP": "8000",
    "VECTORPOOL_PORT": "tcp://10.43.7.1:8000",
    "VECTORPOOL_PORT_8000_TCP": "tcp://10.43.7.1:8000",
    "VECTORPOOL_PORT_8000_TCP_PROTO": "tcp",
    "VECTORPOOL_PORT_8000_TCP_PORT": "8000",
    "VECTORPOOL_PORT_8000_TCP_ADDR": "fd00::1",
    "VECTORPOOL_STORE_SERVICE_HOST": "10.43.7.2",
    "VECTORPOOL_STORE_PORT": "tcp://10.43.7.2:9000",
}


def test_variables_of_kubernetes_are_passed_over() -> None:
    """What Kubernetes sets for a service of this name is no setting; with PORT, the port is still PORT's."""
    assert load_settings(environ=OF_KUBERNETES) == Settings()
    assert load_settings(environ={**OF_KUBERNETES, "PORT": "8080"}).port == 8080


@pytest.mark.parametrize(
    ("variable", "value"),
    [("VECTORPOOL_PORT", "http://10.43.7.1:8000"), ("VECTORPOOL_MY_PORT", "8000"), ("VECTORPOOL_SERVICE_HOST", "x y")],
)
def test_only_values_of_kubernetes_are_passed_over(variable: str, value: str) -> None:
    """A variable that is only named like one of Kubernetes is a wrong setting."""
    with pytest.raises(Misconfigured, match=variable):
        load_settings(environ={variable: value})


def test_the_platforms_port_gives_way_to_ours(tmp_path: Path) -> None:
    """PORT beats the file and the default, VECTORPOOL_PORT beats PORT, a flag beats both; a wrong PORT is named."""
    config = tmp_path / "c.toml"
    config.write_text("port = 1001\n")
    assert load_settings(environ={"PORT": "8080"}, config=config).port == 8080
    for environ in ({"PORT": "8080", "VECTORPOOL_PORT": "1002"}, {"VECTORPOOL_PORT": "1002", "PORT": "8080"}):
        assert load_settings(environ=environ).port == 1002
        assert load_settings({"port": 1003}, environ=environ).port == 1003
    with pytest.raises(Misconfigured, match=r"in the environment \(PORT\)"):
        load_settings(environ={"PORT": "http"})


def test_quotes_that_an_env_file_keeps_are_refused() -> None:
    """A value in quotes is refused by its name, and a secret is not repeated."""
    for name, value in [("STORE", '"s3://b/p"'), ("S3_REGION", "'eu-central-1'"), ("OPENAI_API_KEY", '"hunter2"')]:
        with pytest.raises(Misconfigured, match="quotes") as caught:
            load_settings(environ={f"VECTORPOOL_{name}": value})
        assert name.lower() in caught.value.detail and "hunter2" not in caught.value.detail


@pytest.mark.parametrize("name", ["store", "replica_dir", "tokens_file", "address_file"])
def test_paths_are_those_that_were_meant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home is expanded in every path; an unknown home, a variable and a control character are refused."""
    monkeypatch.setenv("HOME", "/homes/me")
    assert getattr(load_settings({name: "~/x"}, environ={}), name) == "/homes/me/x"
    for path in ("~no-such-user/x", "$HOME/x", "${HOME}/x", "/a/\x00b", "/a\n/b"):
        with pytest.raises(Misconfigured, match=name):
            load_settings({name: path}, environ={})


def test_a_working_directory_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is refused in one sentence where there is nothing that it is relative to."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        with pytest.raises(Misconfigured, match="working directory is gone"):
            load_settings(environ={})
        load_settings({"store": "s3://bucket", "replica_dir": "/replicas"}, environ={})
    finally:
        monkeypatch.chdir(tmp_path)


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    """A file that is missing, is no TOML or names no setting is refused by its name."""
    missing, broken, unknown = tmp_path / "no.toml", tmp_path / "broken.toml", tmp_path / "unknown.toml"
    broken.write_text("port = \n")
    unknown.write_text("prot = 1\n")
    for path, said in [(missing, "is not there"), (broken, "not valid TOML"), (unknown, "prot")]:
        with pytest.raises(Misconfigured) as caught:
            load_settings(environ={}, config=path)
        assert said in caught.value.detail
        assert path.name in caught.value.detail


def test_secrets_are_never_repeated() -> None:
    """A secret of a wrong type is refused without its value."""
    for name in SECRETS:
        with pytest.raises(Misconfigured) as caught:
            load_settings({name: ["hunter2"]}, environ={})
        assert "hunter2" not in caught.value.detail


def test_the_usual_aws_variables_name_the_endpoint() -> None:
    """AWS_ENDPOINT_URL_S3 serves where VECTORPOOL_S3_ENDPOINT is not set, and gives way where it is."""
    environ = {"AWS_ENDPOINT_URL_S3": "http://s3.test", "AWS_ENDPOINT_URL": "http://all.test"}
    assert load_settings(environ=environ).s3_endpoint == "http://s3.test"
    assert load_settings(environ={"AWS_ENDPOINT_URL": "http://all.test"}).s3_endpoint == "http://all.test"
    assert load_settings(environ=environ | {"VECTORPOOL_S3_ENDPOINT": "http://own"}).s3_endpoint == "http://own"
