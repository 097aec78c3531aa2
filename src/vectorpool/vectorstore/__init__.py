"""One user's vectorstore: a replica directory, Chroma and the sidecar in it, and the commit log behind it.

Invariants: a directory is opened only if it was just built from the log (or from the empty template), and never
one that an earlier process left; a refused command has no effect; a command that fails half-way costs the replica,
which is built anew; only ``capture`` decides what a commit carries, under the read-write lock that keeps readers out.
Only ``engine`` calls Chroma. Nothing here depends on other users, slots or processes.
"""
