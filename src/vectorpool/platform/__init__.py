"""The operating system: the allocator's limits, which threads skip fsync, and what a failure of the disk looks like.

The first two have a setting, and do nothing where the system does not offer them. This package imports only errors.
"""
