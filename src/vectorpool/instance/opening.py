"""The settings of an instance in the caller's process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vectorpool.configuration import load_settings
from vectorpool.errors import Misconfigured
from vectorpool.platform import descriptors
from vectorpool.settings import Settings
from vectorpool.spelling import meant

# Settings of a server: there is no listener, and the program may do everything.
_OF_A_SERVER: Final = ("host", "port", "address_file", "tokens_file", "token_", "admin_key", "insecure_open")


def read_options(store: str | os.PathLike[str], options: Mapping[str, Any]) -> Settings:
    """Return the settings that keyword arguments give. Raises Misconfigured.

    Shards raise no limit of the caller's process: slots follow the descriptors that it may have.
    """
    for name in options:
        if name not in Settings.__struct_fields__:
            raise Misconfigured(f"{name!r} is no setting.{meant(name, Settings.__struct_fields__)}")
        if name == "shards" and options[name] == -1:
            raise Misconfigured("shards=-1 would load the engine into this process. Use 0, or a number of processes.")
        if name.startswith(_OF_A_SERVER):
            raise Misconfigured(f"{name} is a setting of a server, and this instance is none. Leave it out.")
    given = {"store": os.fspath(store), **options}
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return descriptors.fit(load_settings(given, environ={}), descriptors.current())
