"""vectorpool: one private Chroma vectorstore per user, on containers that have no disk.

The house, ground first; nothing imports upwards (import-linter holds it):

errors, settings, sources, names, answers and commands are the ground; ``objects`` is the bucket;
``commitlog`` the truth in it, bytes only; ``vectorstore`` one user's store; ``pool`` the bounded LRU of
them; ``shard`` the process around a pool; ``embedding`` turns text into vectors; ``documents`` turns files
into records; ``api`` speaks HTTP; ``app`` and ``cli`` compose.
"""

__version__ = "0.1.0"
