"""Other systems that a vectorstore is exported to and imported from: one interface, a module for each system.

Purpose: a second home for a user's records, which is kept current by increments and read back when it is needed.

Face: ``urls.parse`` reads a target's URL, ``registry.open_sink`` and ``registry.open_source`` open it, and
``transfer.export`` and ``transfer.read_all`` move the records. ``directory`` reads and writes the local side, a plain
Chroma directory of one commit.

Invariants: what a target holds of a user is as of one commit, or says that it is not yet. Everything may be done
again. A value that a target cannot hold is converted by a rule that its module states, or refused by name. No
credential appears in an error.

A system's driver is imported when a target of its kind is opened, and every method blocks.
"""
