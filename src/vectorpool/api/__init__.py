"""The API over HTTP: thin controllers that check a request, build a command, and pass the shard's answer on.

Invariants: ids, metadata and filters are checked before a command exists; a shard's answer is sent as the bytes that
came, never decoded and encoded again; every failure is an RFC 9457 problem of a stable type that says what to do and
never shows what the caller may not know. May not touch a vectorstore or the bucket except through what ``Service``
holds, and never imports chromadb. One controller file a noun.
"""
