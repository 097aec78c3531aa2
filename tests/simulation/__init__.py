"""The real pool, vectorstores and commit logs over a seeded faulty store and virtual time.

- ``loop``: an event loop whose time jumps, and whose domains (a process, the network) freeze and die as a whole;
- ``network``: the wire between an instance and the store: requests that arrive though their sender is gone;
- ``ledger``: the store as a witness: every effect on it is checked when it happens;
- ``replica``: files in Chroma's place;
- ``instance``: a process with the real code in it; ``clients``: who judge every answer;
- ``world``: all of it from one seed. ``python -m tests.simulation SEED`` replays one.

Not simulated: Chroma itself, shard processes, HTTP, the end of a vectorstore, tags, restore and forks.
"""
