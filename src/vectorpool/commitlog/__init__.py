"""The commit log: one write-once log per user in object storage. The log is the truth; replicas are its caches.

This package knows files, blocks and objects. It does not know records. Invariants: a number has one content for all
time; a delta is applied only to the image that is exactly its parent; nothing is returned whose checksums do not
match. It may not import Chroma or a store's library. The README of this directory is the design.
"""
