"""What the controllers may reach: built by ``app``, handed in as a dependency, never global."""

from __future__ import annotations

from dataclasses import dataclass

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding import Embedder
from vectorpool.settings import Settings
from vectorpool.shard.router import Router


@dataclass(frozen=True)
class Service:
    """The parts of one instance, started."""

    settings: Settings
    router: Router
    embedder: Embedder
    library: DocumentLibrary
    ingestor: Ingestor


# How a handler asks for it; litestar need not validate what app itself provides.
Svc = NamedDependency[SkipValidation[Service]]
