"""What Chroma's own protocol answers where Chroma refuses: Chroma's words, and the status its server gives them.

Client libraries pick an exception by the status or by the error's name, and some match the text. So nothing is
rewritten here but what the bindings blur: their exceptions have three kinds, the server's answers a few more.
"""

from __future__ import annotations

from typing import Final

from vectorpool.errors import BrokenReplica, ChromaRefusal, VectorpoolError
from vectorpool.vectorstore.bindings import translate

# What the server answers with another status than the kind of the exception says, by a part of its text.
_BY_TEXT: Final = (
    ("already exists", 409),
    ("is not supported for local chroma", 501),
    ("is unsupported for local chroma", 501),
    ("not implemented", 501),
    # The server calls this an internal error; it is the caller who named a record that is not there.
    ("Error finding id", 400),
    ("unknown field", 422),
    ("unknown variant", 422),
    ("invalid type", 422),
    ("invalid value", 422),
    ("missing field", 422),
    ("did not match any variant", 422),
)
_OTHER_SHAPE: Final = "Failed to deserialize the JSON body into the target type: "
_BY_KIND: Final = {"InvalidArgumentError": 400, "TypeError": 422, "ValueError": 400, "NotFoundError": 404}


def refusal(error: BaseException, *, names_ids: bool = False) -> VectorpoolError:
    """Return what an exception of the bindings means to a client of Chroma.

    ``names_ids`` tells that the caller restricted a query to ids: without any, an id that cannot be found is the
    replica's fault. A BrokenReplica stays one, whoever asks.
    """
    translated = translate(error)
    if isinstance(translated, BrokenReplica) or isinstance(error, VectorpoolError):
        return translated
    kind, text = type(error).__name__, str(error).removeprefix("Error getting collection: ")
    if "Error finding id" in text and not names_ids:
        return BrokenReplica("Chroma's index and its records do not agree.")
    for part, status in _BY_TEXT:
        if part in text:
            # What is part of a body for the server is a text of its own for the bindings.
            return ChromaRefusal(_OTHER_SHAPE + text if status == 422 else text, status=status)
    return ChromaRefusal(text, status=_BY_KIND.get(kind, 500))
