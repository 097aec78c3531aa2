"""Shards: the processes that own pools, and the router that finds a user's shard.

Invariants: a user belongs to one shard of an instance, by hash; a command crosses to it once, encoded with
msgspec, and the answer's JSON is passed on as bytes; a shard that dies is started again, its users hydrate
again, and the callers of its writes are told that the outcome is unknown. The front process never imports
Chroma: only ``vectorpool.shard.process`` and the in-process twin load a pool. May not know HTTP.
"""
