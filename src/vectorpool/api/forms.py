"""Forms with files (multipart/form-data), read from memory: no file goes to a disk that may be full or read-only."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from vectorpool.api.bodies import body_of
from vectorpool.api.call import Call
from vectorpool.errors import InvalidRequest, LimitExceeded

MOST_PARTS: Final = 1000
_LONGEST_FIELD: Final = 64 * 1024
# Bytes that one call of the parser takes; it holds the interpreter lock meanwhile.
_PIECE: Final = 256 * 1024


class FormFile(msgspec.Struct):
    """One file of a form: the field's name, the file's own (without folders), and its bytes."""

    field: str
    name: str
    data: bytearray


class Form(msgspec.Struct):
    """A form: the texts of its fields, the last one of a name, and its files."""

    fields: dict[str, str]
    files: list[FormFile]

    def files_of(self, *names: str) -> list[FormFile]:
        """Return the files of these fields."""
        return [file for file in self.files if file.field in names]


async def form_of(request: Call) -> Form:
    """Return the form in a request's body. Raises InvalidRequest for a body that is none, LimitExceeded."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.lower() != "multipart/form-data" or not options.get("boundary"):
        raise InvalidRequest("The body is no form. Send multipart/form-data, as curl -F does.")
    body = await body_of(request)
    return await asyncio.to_thread(read_form, body, options["boundary"])


def read_form(body: bytes | memoryview, boundary: str) -> Form:
    """Return a form. Raises InvalidRequest, LimitExceeded."""
    form = Form({}, [])
    try:
        with PushMultipartParser(boundary, content_length=len(body), max_segment_count=MOST_PARTS) as parser:
            at, part = 0, _Part(form)
            while not parser.closed and at < len(body):
                for event in parser.parse(bytes(body[at : at + _PIECE])):
                    part.take(event)
                at += _PIECE
    except (MultipartError, UnicodeDecodeError, ValueError) as error:
        if "limit" in str(error).lower():
            raise LimitExceeded(
                f"The form has more than {MOST_PARTS} parts, or headers that are too long. Send fewer.",
                extra={"limit": MOST_PARTS, "limit_name": "parts of a form"},
            ) from None
        raise InvalidRequest(f"The form cannot be read ({error}). Send it as curl -F does.") from None
    return form


class _Part:
    """The part that is read at the moment."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._field = ""
        self._name: str | None = None
        self._data = bytearray()

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, MultipartSegment):
            self._field, self._name, self._data = event.name, event.filename, bytearray()
        elif event is not None:
            self._data += event
            if self._name is None and len(self._data) > _LONGEST_FIELD:
                raise LimitExceeded(
                    f"The field {self._field!r} of the form has more than {_LONGEST_FIELD} bytes. Send it as a file.",
                    extra={"limit": _LONGEST_FIELD, "limit_name": "bytes of a field"},
                )
        elif self._name is None:
            self._form.fields[self._field] = self._data.decode()
        else:
            # Browsers of old sent whole paths; a path of the sender's machine is no part of the name.
            name = self._name.replace("\\", "/").rpartition("/")[2]
            self._form.files.append(FormFile(self._field, name, self._data))
