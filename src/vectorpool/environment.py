"""What the operating environment hands over as text: variables of other programs, and paths as people type them."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from pathlib import Path
from typing import Final

from vectorpool.errors import Misconfigured

# Kubernetes sets variables for each service of a namespace, named after it: a service called "vectorpool" gives
# VECTORPOOL_SERVICE_HOST, VECTORPOOL_SERVICE_PORT_HTTP, VECTORPOOL_PORT=tcp://10.0.0.1:80, VECTORPOOL_PORT_80_TCP_ADDR.
_OF_A_SERVICE: Final = (
    (re.compile(r"\w+_SERVICE_HOST"), re.compile(r"[0-9A-Fa-f.:]*")),
    (re.compile(r"\w+_SERVICE_PORT(_\w+)?"), re.compile(r"\d*")),
    (re.compile(r"\w+_PORT(_\d+_(TCP|UDP|SCTP))?"), re.compile(r"(tcp|udp|sctp)://.*")),
    (re.compile(r"\w+_PORT_\d+_(TCP|UDP|SCTP)_PROTO"), re.compile(r"(tcp|udp|sctp)?")),
    (re.compile(r"\w+_PORT_\d+_(TCP|UDP|SCTP)_PORT"), re.compile(r"\d*")),
    (re.compile(r"\w+_PORT_\d+_(TCP|UDP|SCTP)_ADDR"), re.compile(r"[0-9A-Fa-f.:]*")),
)
_QUOTES: Final = "\"'`“”„‘’«»"
_VARIABLE: Final = re.compile(r"\$\{|^\$\w|^%\w+%")


def is_of_kubernetes(variable: str, value: str) -> bool:
    """Return whether name and value are those that Kubernetes sets for a service of its own accord."""
    return any(name.fullmatch(variable) and shape.fullmatch(value) for name, shape in _OF_A_SERVICE)


def check_quotes(name: str, text: str) -> None:
    """Raise Misconfigured if a value begins or ends with a quote: an env file, unlike a shell, leaves it there."""
    if text and (text[0] in _QUOTES or text[-1] in _QUOTES):
        raise Misconfigured(f"{name} = {text} has quotes around it, which no shell takes away here. Leave them out.")


def local_path(name: str, text: str) -> str:
    """Return the path that a setting names, with ``~`` expanded; raise Misconfigured if it was meant otherwise.

    A shell takes quotes away and puts in variables. Where no shell reads the value (an env file, a manifest), they stay
    in the text, and would silently name a new directory.
    """
    check_quotes(name, text)
    if any(char < " " or char == "\x7f" for char in text):
        raise Misconfigured(f"{name} = {text!r} holds a control character. Remove it.")
    if _VARIABLE.search(text):
        raise Misconfigured(
            f"{name} = {text} names a variable, which no shell replaces here. Write the path itself instead."
        )
    if not text.startswith("~"):
        return text
    # Path.expanduser raises for a user without a home, such as a container's.
    expanded = os.path.expanduser(text)  # noqa: PTH111 - see above
    if expanded.startswith("~"):
        raise Misconfigured(f"{name} = {text} begins with ~, and that home is not known. Write the whole path.")
    return expanded


def check_working_directory(name: str, path: str) -> None:
    """Raise Misconfigured if a path is relative and the working directory is gone."""
    if Path(path).is_absolute():
        return
    try:
        Path.cwd()
    except OSError:
        raise Misconfigured(
            f"{name} = {path} is relative, and the working directory is gone. Change to one that is there, or give "
            "an absolute path."
        ) from None


def check_writers(what: str, path: Path, descriptor: int) -> None:
    """Raise Misconfigured if other accounts of the machine could write an open file, or put another one in its place.

    For files that decide who may do what; ``what`` names the kind of file.
    """
    file, directory = os.fstat(descriptor), path.resolve().parent.stat()
    group_is_ours = file.st_gid in (os.getegid(), *os.getgroups())
    if file.st_mode & stat.S_IWOTH or (file.st_mode & stat.S_IWGRP and not group_is_ours):
        raise Misconfigured(
            f"The {what} {path} may be written by other accounts of this machine, who could let themselves in. "
            "Take that away: chmod go-w."
        )
    if directory.st_mode & stat.S_IWOTH and not directory.st_mode & stat.S_ISVTX:
        raise Misconfigured(
            f"The directory of the {what} {path} may be written by every account of this machine, who could put "
            "another file in its place. Take that away: chmod o-w."
        )


def can_send_traces() -> bool:
    """Return whether the extra that sends traces is installed, without importing it."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
