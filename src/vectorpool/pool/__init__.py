"""Slots and their bounded LRU: the vectorstores that are open in this process, and the requests that use them.

Invariants: at most ``open_slots`` vectorstores are open; one slot a user, and one writer task a slot changes its
vectorstore; a slot in use is never evicted; every queue and wait is bounded and has an error of its own; there are no
locks, because a pool belongs to one event loop. Nothing here depends on how commands cross processes.
"""
