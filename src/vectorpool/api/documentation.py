"""The OpenAPI document: schemas and examples of every body, and the problems of every operation.

The framework gathers paths and parameters. Bodies are decoded and encoded by this package, so their schemas come from
the same msgspec structs. Each operation states its body, its answer and its problems here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import msgspec
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import (
    Components,
    OpenAPIType,
    Operation,
    Parameter,
    Schema,
    SecurityRequirement,
    SecurityScheme,
)
from litestar.types import Method

from vectorpool import answers
from vectorpool.api import document_examples as examples
from vectorpool.api import limit_shapes, requests, views
from vectorpool.api.admin_examples import ADMIN_EXAMPLES
from vectorpool.api.problems import COMMIT_HEADER, PROBLEM_BASE, PROBLEM_MEDIA_TYPE, Problem, problem_type
from vectorpool.api.read_options import AT_PARAMETER, CONSISTENCY_HEADER, MIN_COMMIT_HEADER
from vectorpool.errors import (
    CommitNotReached,
    DeadlineExceeded,
    Draining,
    Forbidden,
    InvalidId,
    InvalidRequest,
    LimitExceeded,
    PoolBusy,
    QueueFull,
    ShardUnavailable,
    StoreUnavailable,
    TokenKeysUnavailable,
    Unauthenticated,
    VectorpoolError,
)
from vectorpool.identity.grants import Minted
from vectorpool.identity.revocations import Revocation
from vectorpool.jobs.views import EXAMPLE_JOB, EXAMPLE_TRANSFER, Job, JobPage

# --- Examples ----------------------------------------------------------------------------------------

_COLLECTION: Final = answers.Collection(
    name="notes",
    id="6f7c1c5e-3a0b-4d0c-9a55-0d4d3b0a7c11",
    avatar_id="7",
    metadata={"source": "handbook"},
    dimension=384,
    embedder="onnx:all-MiniLM-L6-v2-int8",
    space="cosine",
    hnsw={"space": "cosine", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16, "sync_threshold": 1000},
    count=2,
)
_RECORD: Final = answers.Record(id="note-1", document="The warranty lasts two years.", metadata={"page": 3})
_MATCH: Final = answers.Match(
    id="note-1", distance=0.21, document="The warranty lasts two years.", metadata={"page": 3}
)
_RESIDENCY: Final = answers.Residency(
    user_id="42",
    state="ready",
    commit=17,
    bytes=1_261_568,
    warm_bytes=402_133,
    last_use_ms=1_780_000_000_000,
    dirty=False,
)
_STORED: Final = answers.Vectorstore(user_id="42", avatars=1, collections=2, records=540, bytes=1_261_568)
_COMMIT: Final = answers.Commit(
    commit=17,
    time_ms=1_780_000_000_000,
    bytes=14_322,
    state_bytes=1_261_568,
    added=6,
    deleted=0,
    collections=["documents"],
    restored_from=None,
    tombstone=False,
    backups=["before-migration"],
    damage=None,
)
_BACKUP: Final = answers.Backup(name="before-migration", commit=17, time_ms=1_780_000_000_000)

ANSWER_EXAMPLES: Final[dict[type[msgspec.Struct], msgspec.Struct]] = {
    **examples.ANSWERS,
    answers.Collection: _COLLECTION,
    answers.CollectionPage: answers.CollectionPage(collections=[_COLLECTION], total=1),
    answers.Avatar: answers.Avatar(avatar_id="7", collections=1, records=540, documents=12),
    answers.AvatarPage: answers.AvatarPage(
        avatars=[answers.Avatar(avatar_id="7", collections=1, records=540, documents=12)], total=1
    ),
    answers.Count: answers.Count(count=540),
    answers.RecordPage: answers.RecordPage(records=[_RECORD]),
    answers.QueryResult: answers.QueryResult(results=[[_MATCH]]),
    answers.Written: answers.Written(written=2),
    answers.Deleted: answers.Deleted(deleted=2),
    answers.Residency: _RESIDENCY,
    answers.PoolView: answers.PoolView(
        slots=[_RESIDENCY],
        open_slots=1,
        open_slots_limit=100,
        local_bytes=1_663_701,
        local_bytes_limit=6_442_450_944,
        waiting=0,
        store=answers.StoreTraffic(
            requests={"get": 12, "list_objects": 31, "create": 17}, bytes_sent=1_712_800, bytes_received=1_663_950
        ),
        tasks=[
            answers.TaskView(
                "pool tick", "running", is_essential=True, starts=1, failures=0, failures_in_a_row=0, shard=0
            )
        ],
    ),
    views.UserView: views.UserView(user_id="42", commit=17, stored=cast(Any, _STORED), residency=cast(Any, _RESIDENCY)),
    views.Health: views.Health(status="live"),
    views.Readiness: views.Readiness(status="ready"),
    **ADMIN_EXAMPLES,
    Job: EXAMPLE_JOB,
    JobPage: JobPage([EXAMPLE_JOB, EXAMPLE_TRANSFER]),
    answers.LostPage: answers.LostPage(
        lost=[
            answers.LostRecord(
                avatar_id="7",
                collection="notes",
                id="note-1",
                reason="its vector is in no file any more; Chroma holds no record without one",
                time_ms=1_780_000_000_000,
                document="The warranty lasts two years.",
                metadata={"source": "handbook"},
            )
        ],
        total=1,
    ),
    answers.CommitPage: answers.CommitPage(commits=[_COMMIT]),
    answers.Verification: answers.Verification(
        verified_at_ms=1_780_000_000_000,
        newest_commit=17,
        newest_intact_commit=17,
        commits=17,
        objects=20,
        bytes=1_930_112,
        problems=[],
    ),
    answers.Deletion: answers.Deletion(
        user_id="42",
        commit=18,
        deleted_at_ms=1_780_000_000_000,
        objects=20,
        bytes=1_930_112,
        backups=1,
        documents=3,
        verified_empty_at_ms=1_780_000_000_150,
    ),
    answers.Restored: answers.Restored(commit=18, restored_from=17),
    answers.Backup: _BACKUP,
    answers.BackupPage: answers.BackupPage(backups=[_BACKUP]),
    answers.Forked: answers.Forked(user_id="43", commit=1),
    Minted: Minted("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0b2tlbiJ9.c2lnbmF0dXJl", "0a1b2c3d", 1_780_000_000_000, "k1"),
    Revocation: Revocation("0a1b2c3d", 1_780_000_000_000, 1_780_003_600_000),
    **limit_shapes.ANSWERS,
}
_RECORDS_EXAMPLE: Final = {
    "records": [
        {"id": "note-1", "document": "The warranty lasts two years.", "metadata": {"page": 3}},
        {"id": "note-2", "document": "Returns are free within 30 days.", "metadata": {"page": 4}},
    ]
}
REQUEST_EXAMPLES: Final[dict[type[msgspec.Struct], Any]] = {
    **examples.REQUESTS,
    requests.CreateCollectionBody: {"name": "notes", "metadata": {"source": "handbook"}, "hnsw": {"space": "cosine"}},
    requests.ModifyCollectionBody: {"name": "notes-2026"},
    requests.WriteRecordsBody: _RECORDS_EXAMPLE,
    requests.DeleteRecordsBody: {"ids": ["note-1"]},
    requests.GetRecordsBody: {"where": {"page": {"$gte": 3}}, "limit": 10},
    requests.QueryBody: {"texts": ["How long is the warranty?"], "n_results": 3},
    requests.RestoreBody: {"commit": 17},
    requests.CreateBackupBody: {"commit": 17},
    requests.ForkBody: {"user_id": "43"},
    requests.KeepOpenBody: {"for_s": 3600},
    requests.MintTokenBody: {"users": ["42"], "access": "write", "ttl_s": 3600},
    requests.RevokeTokenBody: {"token_id": "0a1b2c3d", "expires_at_ms": 1_780_003_600_000},
    **limit_shapes.BODIES,
}

# --- Schemas -----------------------------------------------------------------------------------------

_REF: Final = "#/components/schemas/{name}"


def component_schemas() -> dict[str, Any]:
    """Return the schema of every request and answer, by name, as OpenAPI components."""
    structs = [*REQUEST_EXAMPLES, *ANSWER_EXAMPLES, Problem]
    _, components = msgspec.json.schema_components(structs, ref_template=_REF)
    for struct, example in ANSWER_EXAMPLES.items():
        components[struct.__name__]["examples"] = [msgspec.to_builtins(example)]
    for body, request_example in REQUEST_EXAMPLES.items():
        components[body.__name__]["examples"] = [request_example]
    return components


def _ref(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=struct.__name__)}


# --- Operations --------------------------------------------------------------------------------------

# Problems that any operation on a vectorstore may have, beside its own.
_ALWAYS: Final[tuple[type[VectorpoolError], ...]] = (
    InvalidRequest,
    InvalidId,
    LimitExceeded,
    CommitNotReached,
    DeadlineExceeded,
    QueueFull,
    PoolBusy,
    Draining,
    ShardUnavailable,
    StoreUnavailable,
    *limit_shapes.PROBLEMS,
)

# Problems of every operation that is not open, if the service has tokens.
_WITHOUT_TOKEN: Final[tuple[type[VectorpoolError], ...]] = (Unauthenticated, Forbidden, TokenKeysUnavailable)

COMMIT_HEADER_DOC: Final = {
    COMMIT_HEADER: {
        "description": "The number of the commit that the answer saw; 0 if there is none yet.",
        "schema": {"type": "integer", "examples": [17]},
    }
}

_READING_PARAMETERS: Final = [
    Parameter(
        name=CONSISTENCY_HEADER,
        param_in="header",
        description="How fresh a read must be: strong, bounded, bounded(milliseconds) or local.",
        schema=Schema(type=OpenAPIType.STRING, examples=["bounded(500)"]),
    ),
    Parameter(
        name=MIN_COMMIT_HEADER,
        param_in="header",
        description="The least commit that a read may answer from: what an earlier response carried.",
        schema=Schema(type=OpenAPIType.INTEGER, examples=[17]),
    ),
    Parameter(
        name=AT_PARAMETER,
        param_in="query",
        description="Read from this past commit, beside the live vectorstore. Writes refuse it.",
        schema=Schema(type=OpenAPIType.INTEGER, examples=[17]),
    ),
]


@dataclass
class _Documented(Operation):
    """An operation whose bodies and problems this module describes."""

    takes: ClassVar[type[msgspec.Struct] | str | None] = None
    gives: ClassVar[type[msgspec.Struct] | str | None] = None
    problems: ClassVar[tuple[type[VectorpoolError], ...]] = ()
    with_commit: ClassVar[bool] = True
    is_open: ClassVar[bool] = False

    def __post_init__(self) -> None:
        status, success = next(iter((self.responses or {}).items()))
        documented: dict[str, Any] = {status: self._success(getattr(success, "description", "Done"))}
        documented.update(self._problem_responses())
        self.responses = cast(Any, documented)
        if self.with_commit and self.gives is not None:
            self.parameters = [*(self.parameters or []), *_READING_PARAMETERS]
        if self.takes is not None:
            self.request_body = cast(Any, self._request())

    def _request(self) -> dict[str, Any]:
        if isinstance(self.takes, str):
            return {"required": True, "content": {self.takes: {"schema": {"type": "string", "format": "binary"}}}}
        assert self.takes is not None
        media = {"schema": _ref(self.takes), "example": REQUEST_EXAMPLES[self.takes]}
        return {"required": True, "content": {"application/json": media}}

    def _success(self, description: str) -> dict[str, Any]:
        response: dict[str, Any] = {"description": description}
        if self.with_commit:
            response["headers"] = COMMIT_HEADER_DOC
        if isinstance(self.gives, str):
            response["content"] = {self.gives: {"schema": {"type": "string", "format": "binary"}}}
        elif self.gives is not None:
            example = msgspec.to_builtins(ANSWER_EXAMPLES[self.gives])
            response["content"] = {"application/json": {"schema": _ref(self.gives), "example": example}}
        return response

    def _problem_responses(self) -> dict[str, Any]:
        by_status: dict[int, list[type[VectorpoolError]]] = {}
        always = (*(_ALWAYS if self.with_commit else ()), *(() if self.is_open else _WITHOUT_TOKEN))
        for error in dict.fromkeys([*self.problems, *always]):
            by_status.setdefault(error.status, []).append(error)
        return {
            str(status): {
                "description": "; ".join(f"{error.code}: {error.title}" for error in errors),
                "content": {
                    PROBLEM_MEDIA_TYPE: {
                        "schema": _ref(Problem),
                        "examples": {error.code: {"value": _problem_example(error)} for error in errors},
                    }
                },
            }
            for status, errors in sorted(by_status.items())
        }


def _problem_example(error: type[VectorpoolError]) -> dict[str, Any]:
    # The meaning; what to do follows it in the docstring.
    sentence = " ".join((error.__doc__ or error.title).split("\n\n")[0].split())
    return {
        "type": problem_type(error),
        "title": error.title,
        "status": error.status,
        "detail": sentence,
        "instance": "/users/42/collections/notes",
        "code": error.code,
    }


def documented(
    *,
    takes: type[msgspec.Struct] | str | None = None,
    gives: type[msgspec.Struct] | str | None = None,
    problems: tuple[type[VectorpoolError], ...] = (),
    with_commit: bool = True,
    is_open: bool = False,
) -> type[Operation]:
    """Return the ``operation_class`` of a route handler.

    ``takes`` and ``gives`` are structs, or a media type for raw bytes; ``problems`` are those of this operation alone;
    ``with_commit`` says that it is about a vectorstore, so that it carries the commit and shares the usual problems;
    ``is_open`` says that it needs no token.
    """
    members = {"takes": takes, "gives": gives, "problems": problems, "with_commit": with_commit, "is_open": is_open}
    return type("Documented", (_Documented,), members)


def operation_id(handler: HTTPRouteHandler, _method: Method, path: list[Any]) -> str:
    """Return the id of an operation: its handler's name, with ``avatar_`` in front where both namespaces have it."""
    of_avatar = any(getattr(part, "name", None) == "avatar_id" for part in path)
    shared = any(part == "collections" for part in path)
    return f"avatar_{handler.handler_name}" if of_avatar and shared else handler.handler_name


# One of the two headers, or none if the service has no tokens.
TOKEN_SCHEMES: Final = Components(
    security_schemes={
        "bearer": SecurityScheme(
            type="http", scheme="bearer", description="A token of the tokens file, or a JSON web token."
        ),
        "chromaToken": SecurityScheme(
            type="apiKey",
            security_scheme_in="header",
            name="X-Chroma-Token",
            description="The same, as Chroma sends it.",
        ),
    }
)
SECURITY: Final[list[SecurityRequirement]] = [{}, {"bearer": []}, {"chromaToken": []}]

DESCRIPTION: Final = (
    "One private vectorstore per user, kept in object storage. Errors are RFC 9457 problems; their types begin with "
    f"`{PROBLEM_BASE}`. Every answer about a vectorstore names the commit that it saw in `{COMMIT_HEADER}`."
)
