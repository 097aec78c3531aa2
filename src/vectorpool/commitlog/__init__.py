"""The commit log: one write-once log per user in object storage, which is the truth; replicas are its caches.

Bytes only: this package knows files, blocks and objects, never records. Invariants: a number has one content, ever;
a delta is applied only to the image that is exactly its parent; nothing is served whose checksums do not agree.
May not import Chroma, nor a store's library. The README of this directory is the design.
"""
