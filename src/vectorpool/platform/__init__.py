"""What the operating system is told on behalf of the service: the allocator's limits, and which threads skip fsync.

Each has a setting, and each does nothing where the system does not offer it. This package knows no other of ours.
"""
