"""The settings as they are given: read from files, the environment and flags, checked, and described in a table.

A setting comes from, in rising order: its default, a TOML file (``--config`` or ``VECTORPOOL_CONFIG``), the
environment (``VECTORPOOL_<NAME>``), a command-line flag (``--<name>``). The table in docs/reference/settings.md is made
from this module (``python -m vectorpool.configuration``).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from vectorpool.environment import can_send_traces, check_working_directory, is_of_kubernetes, local_path
from vectorpool.errors import Misconfigured
from vectorpool.limits import LimitSettings
from vectorpool.settings import Settings
from vectorpool.spelling import meant

SECRETS = frozenset(
    {
        "s3_secret_access_key",
        "openai_api_key",
        "token_secret",
        "admin_key",
        "log_key",
        "jobs_url",
        "service_token",
        "webhook_secret",
        "targets",
    }
)
ENV_PREFIX = "VECTORPOOL_"
# Variables that are no settings: the file of settings, and where `vectorpool admin` finds a running service.
_OF_THE_COMMAND_LINE = ("CONFIG", "SERVICE", "TOKEN")
_MAX_SECRET_BYTES = 16 * 1024
# Settings that are paths of this machine; ``store`` is one too, unless it is a URL.
_PATHS = ("replica_dir", "tokens_file", "token_secret_file", "admin_key_file", "address_file")


class SettingInfo(msgspec.Struct, frozen=True):
    """One row of the settings table."""

    name: str
    env: str
    flag: str
    default: Any
    type: str
    description: str


def _type_name(hint: Any) -> str:
    if hasattr(hint, "__metadata__"):
        return _type_name(hint.__origin__)
    args = getattr(hint, "__args__", None)
    if args and all(isinstance(a, str) for a in args):
        return " or ".join(args)
    if args:
        return " or ".join(_type_name(a) for a in args if a is not type(None))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}[hint.__name__]


def flag_of(name: str) -> str:
    """Return the flag of a setting. That of a secret takes a file: every account may list a process's arguments.

    A secret whose file is a setting of its own has no other flag than that.
    """
    flag = "--" + name.replace("_", "-")
    if name not in SECRETS:
        return flag
    return "" if f"{name}_file" in Settings.__struct_fields__ else f"{flag}-file"


def read_secret(path: str, flag: str) -> str:
    """Return the secret that a file holds, without the line's end. Raises Misconfigured."""
    try:
        with Path(path).expanduser().open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES + 1).decode().strip()
    except OSError as error:
        raise Misconfigured(
            f"The file of {flag} cannot be read: {error.strerror}. Name a file that holds the secret, or set the "
            "environment variable instead."
        ) from None
    except UnicodeDecodeError:
        raise Misconfigured(f"The file of {flag} is not UTF-8. Write the secret into it, and nothing else.") from None
    if not text or len(text) > _MAX_SECRET_BYTES:
        raise Misconfigured(f"The file of {flag} is empty or too long. Write the secret into it, and nothing else.")
    return text


def describe_settings() -> list[SettingInfo]:
    """Return every setting, in the order in which they are declared."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    # Those that every service needs come first.
    inherited = LimitSettings.__struct_fields__
    for field in sorted(msgspec.structs.fields(Settings), key=lambda field: field.name in inherited):
        hint = hints[field.name]
        meta = next(m for m in hint.__metadata__ if m.description)
        rows.append(
            SettingInfo(
                name=field.name,
                env=ENV_PREFIX + field.name.upper(),
                flag=flag_of(field.name),
                default=field.default,
                type=_type_name(hint),
                description=meta.description,
            )
        )
    return rows


def settings_table() -> str:
    """Return the table of settings, in Markdown."""
    lines = ["| environment, flag | default | what it sets |", "|---|---|---|"]
    for row in describe_settings():
        default = (
            ""
            if row.default is None
            else f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"
        )
        flag = f"<br>`{row.flag}`" if row.flag else ""
        lines.append(f"| `{row.env}`{flag} | {default} | {row.description} ({row.type}) |")
    return "\n".join(lines)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return {key.replace("-", "_"): value for key, value in tomllib.load(file).items()}
    except FileNotFoundError:
        raise Misconfigured(f"The configuration file {path} is not there. Create it, or leave --config out.") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"The configuration file {path} is not valid TOML: {error}.") from None


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: str | Path | None = None,
) -> Settings:
    """Merge defaults, TOML file, environment and flags (None: not given) into one Settings.

    Raises Misconfigured with a sentence that names the setting and where its value came from.
    """
    environ = os.environ if environ is None else environ
    config = config or environ.get(ENV_PREFIX + "CONFIG")
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if config:
        for name, value in _read_toml(Path(local_path("config", str(config)))).items():
            values[name], origin[name] = value, f"in {config}"
    known = {row.name: row for row in describe_settings()}
    for name, variable, text in _variables(environ, known):
        values[name], origin[name] = text, f"in the environment ({variable})"
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origin[name] = value, f"in the flag {known[name].flag}"
    if "s3_endpoint" not in values:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            values["s3_endpoint"] = endpoint
    if endpoint := _traces_endpoint(environ):
        values.setdefault("traces_endpoint", endpoint)
    for name in values:
        if name not in known:
            raise Misconfigured(
                f"{name!r} {origin[name]} is not a setting.{meant(name, known)} `vectorpool serve --help` lists them."
            )
    for name, value in values.items():
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            shown = "***" if name in SECRETS else value
            raise Misconfigured(
                f"{name} = {shown} {origin.get(name, '')} has quotes around it. An env file keeps them: leave them out."
            )
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            shown = "***" if name in SECRETS else repr(value)
            reason = str(error).partition(" - at")[0]
            raise Misconfigured(f"{name} = {shown} {origin.get(name, '')} is not valid: {reason}.") from None
    return _with_paths(msgspec.convert(values, Settings, strict=False))


def _traces_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return where OpenTelemetry's own variables send traces; None if they do not, or nothing here could send them.

    Platforms set them for every container, so that an image without the exporter starts all the same.
    """
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (base := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        endpoint = base.rstrip("/") + "/v1/traces"
    return endpoint if endpoint and can_send_traces() else None


def _variables(environ: Mapping[str, str], known: Mapping[str, SettingInfo]) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, variable, text) of the environment, the stronger variable later.

    Raises Misconfigured for a variable with our prefix that is no setting.
    """
    own = {
        variable: text
        for variable, text in environ.items()
        if variable.startswith(ENV_PREFIX) and not is_of_kubernetes(variable, text)
    }
    settings = {row.env: row.name for row in known.values()}
    for variable in own:
        if variable not in settings and variable.removeprefix(ENV_PREFIX) not in _OF_THE_COMMAND_LINE:
            raise Misconfigured(
                f"{variable} is not a setting.{meant(variable, settings)} `vectorpool serve --help` lists them; "
                "remove it."
            )
    # Platforms that start one container a request tell it by this variable where they send the requests.
    if text := environ.get("PORT"):
        yield "port", "PORT", text
    for variable, text in own.items():
        if variable in settings and text != "":
            yield settings[variable], variable, text


def _with_paths(settings: Settings) -> Settings:
    """Return the settings with ``~`` expanded in their paths; raise Misconfigured for what cannot be a path."""
    paths = {name: path for name in _PATHS if (path := getattr(settings, name))}
    if "://" not in settings.store:
        paths["store"] = settings.store.strip()
    changed = {name: local_path(name, path) for name, path in paths.items()}
    for name, path in changed.items():
        check_working_directory(name, path)
    return msgspec.structs.replace(settings, **changed)


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - this is what the module's command line is for
