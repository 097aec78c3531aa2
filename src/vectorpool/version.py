"""The version of this package. Modules import it from here, because the package itself imports the library's face."""

from __future__ import annotations

__version__ = "0.1.0"
