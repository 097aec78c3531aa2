"""Many users on many instances, in virtual time: the real pools, vectorstores and commit logs over a store in memory.

- ``far``: the bucket: one shelf a user, requests that take as long as a distribution says, and are counted;
- ``paged``: files of Chroma's size and habits in Chroma's place, and a pool of them;
- ``loop``: virtual time; ``week``: what background work costs one user;
- ``life``: sessions of users over a day, sent to instances at random or by user; every answer is checked.

A run repeats from its seed. What is scaled down, and by how much, ``life.Fleet`` and ``paged`` say.
"""
