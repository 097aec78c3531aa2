"""The real pool, vectorstores and commit logs over a seeded faulty store and virtual time.

- ``loop``: an event loop whose time jumps, and whose domains (a process, the network) freeze and die as a whole;
- ``network``: the wire between an instance and the store: requests that arrive although their sender has died;
- ``ledger``: the store, which checks every effect on it when it happens;
- ``replica``: files that stand for Chroma's;
- ``instance``: a process with the real code in it; ``clients``: requests, and the check of every answer;
- ``world``: all of it from one seed. ``python -m tests.simulation SEED`` replays one.

Not simulated: Chroma itself, shard processes, HTTP, the end of a vectorstore, tags, restore and forks.
"""
