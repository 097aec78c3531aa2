"""Examples of the bodies of requests and answers about documents and embeddings, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vectorpool.api import export_shapes, requests, vectorflow_shapes, views
from vectorpool.commands import PipelineChoice
from vectorpool.documents.events import EXAMPLE as EVENT_EXAMPLE
from vectorpool.documents.events import StoreEventBody
from vectorpool.documents.library import Document, DocumentPage
from vectorpool.documents.reports import DocumentOutcome, IngestReport

_PASSAGE: Final = views.Passage(
    id="handbook/warranty.md#0003",
    path="handbook/warranty.md",
    text="The warranty lasts two years.",
    chunk=3,
    start=1880,
    end=2702,
    distance=0.21,
    heading="Warranty",
    metadata={"path": "handbook/warranty.md", "chunk": 3, "start": 1880, "end": 2702, "heading": "Warranty"},
)

_DOCUMENT: Final = Document(
    path="handbook/warranty.md",
    size=5_120,
    etag="9b2cf535f27731c9",
    modified_ms=1_780_000_000_000,
    content_type="text/markdown",
)

ANSWERS: Final[dict[type[msgspec.Struct], msgspec.Struct]] = {
    Document: _DOCUMENT,
    vectorflow_shapes.VectorFlowJob: vectorflow_shapes.VectorFlowJob(
        "Successfully added 1 batches to the queue", vectorflow_shapes.EXAMPLE_NUMBER
    ),
    vectorflow_shapes.VectorFlowUploads: vectorflow_shapes.VectorFlowUploads(
        "Files processed", {"warranty.md": vectorflow_shapes.EXAMPLE_NUMBER}, ["film.mp4"], 0, 0
    ),
    vectorflow_shapes.VectorFlowStatus: vectorflow_shapes.VectorFlowStatus("COMPLETED"),
    vectorflow_shapes.VectorFlowJobs: vectorflow_shapes.VectorFlowJobs(
        [{"JobID": vectorflow_shapes.EXAMPLE_NUMBER, "JobStatus": "COMPLETED"}]
    ),
    DocumentPage: DocumentPage(documents=[_DOCUMENT], next_after=None),
    IngestReport: IngestReport(documents=[DocumentOutcome("handbook/warranty.md", "ingested", chunks=6)], commit=18),
    views.PassagePage: views.PassagePage(results=[[_PASSAGE]]),
    views.PipelineView: views.PipelineView(
        "rows", 120, 0, "onnx:all-MiniLM-L6-v2-int8", PipelineChoice("rows", chunk_tokens=120)
    ),
    views.Embeddings: views.Embeddings("onnx:all-MiniLM-L6-v2-int8", 3, [[0.12, -0.4, 0.33]]),
    views.UploadUrl: views.UploadUrl(
        "PUT", "https://bucket.s3.amazonaws.com/users/42/...?X-Amz-Signature=...", 1_780_000_900_000
    ),
    views.StreamReceipt: views.StreamReceipt(written=120_000, commits=240),
}
REQUESTS: Final[dict[type[msgspec.Struct], Any]] = {
    export_shapes.ExportBody: {"target": "warehouse"},
    export_shapes.ImportBody: {"source": "warehouse"},
    requests.IngestBody: {"paths": ["handbook/warranty.md"]},
    requests.PassageQueryBody: {"text": "How long is the warranty?", "n_results": 3},
    requests.PipelineBody: {"strategy": "rows", "chunk_tokens": 120},
    requests.EmbedBody: {"texts": ["The warranty lasts two years."]},
    vectorflow_shapes.VectorFlowJobsBody: {"JobIDs": [vectorflow_shapes.EXAMPLE_NUMBER]},
    StoreEventBody: msgspec.to_builtins(EVENT_EXAMPLE),
    requests.UploadUrlBody: {"path": "handbook/film-transcript.txt", "expires_s": 900},
}
