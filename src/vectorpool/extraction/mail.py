"""Mail (EML): who, when, subject, the text, and what is attached."""

from __future__ import annotations

from collections.abc import Callable
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from typing import Final

from vectorpool.errors import DocumentTooCostly, DocumentUnreadable, InvalidRequest
from vectorpool.extraction.extracts import Composer, Extract

_HEADERS: Final = ("From", "To", "Cc", "Date", "Subject")
_PARTS: Final = 1000

ReadMember = Callable[[str, bytes], Extract]


def _text_of(part: Message) -> bytes:
    """Return a text part as UTF-8, read as the charset that it names; unknown bytes become the replacement mark."""
    raw = part.get_payload(decode=True)
    raw = raw if isinstance(raw, bytes) else b""
    try:
        text = raw.decode(part.get_content_charset() or "utf-8", errors="replace")
    except LookupError:
        text = raw.decode("utf-8", errors="replace")
    return text.replace("\0", "").replace("\r\n", "\n").encode(errors="replace")


def extract_mail(data: bytes, read_member: ReadMember) -> Extract:
    """Return a mail. ``read_member`` reads what is attached, by name and bytes."""
    composer = Composer()
    try:
        message = BytesParser(policy=policy.default).parsebytes(data)
        heads = [f"{name}: {' '.join(str(message[name]).split())}" for name in _HEADERS if message[name]]
        parts = list(_parts(message))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, LookupError, RecursionError) as error:
        # The standard library's parser raises many kinds for malformed headers.
        raise DocumentUnreadable(f"The mail cannot be read ({type(error).__name__}). Save it again as .eml.") from None
    if not heads and not message.defects and not data.strip():
        return composer.extract()
    subject = " ".join(str(message["Subject"] or "").split())[:200] or None
    composer.add("\n".join(heads), heading=subject)
    has_plain = any(part.get_content_type() == "text/plain" for part in parts if not _name_of(part))
    for number, part in enumerate(parts, start=1):
        name, kind = _name_of(part), part.get_content_type()
        if name is None and kind == "text/html" and has_plain:
            continue
        body = _text_of(part) if kind.startswith("text/") else part.get_payload(decode=True)
        if not isinstance(body, bytes) or not body.strip():
            continue
        if name is None and kind == "text/plain":
            composer.add(body.decode(), heading=subject)
            continue
        label = name or (f"part {number}.html" if kind == "text/html" else f"part {number}")
        try:
            extract = read_member(label, body)
        except DocumentTooCostly:
            raise
        except InvalidRequest as error:
            composer.skip(label, error.detail)
        else:
            composer.add_extract(extract, member=name, above=subject)
    return composer.extract()


def _parts(message: Message) -> list[Message]:
    """Return the leaves of a mail, attached mails as a whole."""
    found: list[Message] = []
    waiting = [message]
    while waiting:
        part = waiting.pop(0)
        payload = part.get_payload()
        if isinstance(payload, list):
            waiting = [member for member in payload if isinstance(member, Message)] + waiting
        else:
            found.append(part)
        if len(found) + len(waiting) > _PARTS:
            raise DocumentTooCostly(f"The mail has more than {_PARTS} parts. Save what matters of it alone.")
    return found


def _name_of(part: Message) -> str | None:
    """Return the name of an attachment, or None for the mail's own text."""
    name = part.get_filename()
    if name:
        return str(name)
    is_attached = isinstance(part, EmailMessage) and part.is_attachment()
    return "attachment" if is_attached else None
