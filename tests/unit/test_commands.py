"""Commands: each is on the wire, and each has exactly one handler."""

from __future__ import annotations

import msgspec
import pytest

from vectorpool import commands
from vectorpool.commands import Command, Operation, Read, Write, operations
from vectorpool.commands.handlers import handled_by, handlers_of, handles
from vectorpool.pool.log_operations import LogOperations
from vectorpool.pool.operations import Operations
from vectorpool.shard.protocol import Execute
from vectorpool.vectorstore.native_documents import DocumentWriter
from vectorpool.vectorstore.native_reads import AT_ONCE, NativeReader
from vectorpool.vectorstore.native_writes import NativeWriter
from vectorpool.vectorstore.protocol_reads import AT_ONCE as PROTOCOL_AT_ONCE
from vectorpool.vectorstore.protocol_reads import ProtocolReader
from vectorpool.vectorstore.protocol_writes import ProtocolWriter

HANDLERS = {
    Read: (NativeReader, ProtocolReader),
    Write: (NativeWriter, DocumentWriter, ProtocolWriter),
    Operation: (Operations, LogOperations),
}


@pytest.mark.parametrize("kind", HANDLERS, ids=lambda kind: kind.__name__)
def test_every_command_has_one_handler(kind: type[Command]) -> None:
    """The handlers of a kind are those of its commands: none is missing, and none is there twice."""
    handled = [command for owner in HANDLERS[kind] for command in handled_by(owner)]
    assert sorted(handled, key=str) == sorted(operations(kind), key=str)
    assert len(handled) == len(set(handled)) > 5


def test_every_command_is_a_read_a_write_or_an_operation() -> None:
    """No command is outside of the kinds, and all of them can be imported from the package."""
    every = set(operations())
    assert every == {command for kind in HANDLERS for command in operations(kind)}
    assert all(getattr(commands, command.__name__) is command for command in every)


def test_names_on_the_wire_are_unique() -> None:
    """No two commands have one name, and a message is decoded into the command of its name."""
    tags = [command.__struct_config__.tag for command in operations()]
    assert len(tags) == len(set(tags))
    decoder = msgspec.msgpack.Decoder(Execute)
    for command in (commands.Hydrate(), commands.DeleteCollection(name="notes"), commands.ChromaGetTenant()):
        sent = msgspec.msgpack.encode(Execute(1, "42", command))
        assert decoder.decode(sent).command == command
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(sent.replace(b"chroma-get-tenant", b"chroma-get-nobody"))


def test_writes_and_what_changes_the_log_are_changes() -> None:
    """A command that is stopped half-way leaves an unknown outcome exactly if it changes what is stored."""
    changes = {command.__name__ for command in operations() if command.is_change}
    operating = {"Restore", "DeleteVectorstore", "CreateBackup", "DeleteBackup", "Fork", "ImportFrom", "Recover"}
    assert changes == {command.__name__ for command in operations(Write)} | operating


def test_what_only_removes_is_no_matter_of_a_quota() -> None:
    """Of the writes exactly these are applied however much is stored; a new one is limited until it says otherwise."""
    frees = {command.__name__ for command in operations(Write) if command.frees}
    noting = {"ForgetDocument", "SettleDocuments", "DiscardParts"}
    assert frees == {each.__name__ for each in operations(Write) if "Delete" in each.__name__} | noting


def test_reads_at_once_are_reads() -> None:
    """What the fast path may answer on the event loop is a part of the reads of its protocol."""
    assert set(handled_by(NativeReader)) > AT_ONCE
    assert set(handled_by(ProtocolReader)) > PROTOCOL_AT_ONCE


def test_a_command_with_two_handlers_is_refused() -> None:
    """A class that handles a command twice is a defect, which is noticed when its handlers are collected."""

    class Twice:
        @handles(commands.Hydrate)
        def first(self) -> None:
            pass

        @handles(commands.Hydrate)
        def second(self) -> None:
            pass

    with pytest.raises(AssertionError, match="twice"):
        handlers_of(Twice())
