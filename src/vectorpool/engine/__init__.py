"""All knowledge of Chroma: its files, tables, bindings and error texts.

Invariants: ``version`` reads a directory with sqlite3 alone and imports no Chroma. May not know of users, commits or
processes.
"""
