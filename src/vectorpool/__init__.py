"""vectorpool: one private Chroma vectorstore per user, on containers that have no disk.

The layers, lowest first; no layer imports one above it (import-linter checks that):

errors, settings, sources, names, answers and commands are the lowest; ``objects`` is the bucket; ``commitlog`` is the
authoritative log in it, bytes only; ``engine`` is all code that depends on Chroma; ``vectorstore`` is one user's store;
``pool`` is the bounded LRU of vectorstores; ``shard`` is the process around a pool; ``embedding`` converts text to
vectors; ``documents`` converts files to records; ``api`` and ``front`` serve HTTP; ``app`` and ``cli`` compose.
"""

__version__ = "0.1.0"
