"""Many users on many instances, in virtual time: the real pools, vectorstores and commit logs over a store in memory.

- ``far``: the bucket: one shelf for each user, and counted requests with latencies of a distribution;
- ``paged``: files that stand for Chroma's, with their sizes and changes, and a pool of them;
- ``loop``: virtual time; ``week``: the background work for one user;
- ``life``: sessions of users over a day, sent to instances at random or by user; every answer is checked.

A run repeats from its seed. ``life.Fleet`` and ``paged`` say what is scaled down, and by how much.
"""
