"""The engine: all knowledge of Chroma, for one open directory.

Purpose: the packages above ask for databases, collections and records. This package alone knows Chroma's bindings, its
SQLite tables, its queue, its index files and its error texts.

Face: ``engine.Engine`` opens a directory. ``Engine.catalogue`` holds databases and collections, ``Engine.records`` the
records of a collection. ``Records`` alone decides whether the fast path answers or Chroma does. ``failures`` says what
an exception means on each protocol. ``salvage`` and ``leftovers`` work on directories that are not open.

Invariants: an answer of the fast path is the answer that Chroma would give, or a better one that is stated; a doubt
is always given to Chroma. Calls of the bindings are made with keywords, by ``bindings`` only.

This package does not know commits, users, the sidecar, or either HTTP protocol. Importing it loads nothing:
``bindings`` and the modules that use it load Chroma's native library (60 ms), which only a shard needs.
"""
