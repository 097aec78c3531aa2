"""Slots and the bounded LRU of them: which vectorstores are open on this instance, and who may use them.

Invariants: at most ``open_slots`` vectorstores are open; one slot a user, and one writer task a slot changes its
vectorstore; a slot in use is never evicted; every queue and wait is bounded and refuses by type; nothing waits
inside a lock (there is none: a pool belongs to one event loop). May not know how commands cross processes.
"""
