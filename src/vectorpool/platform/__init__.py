"""The operating system: the allocator's limits, which threads skip fsync, descriptors, and failures of the disk.

The first two have a setting, and do nothing where the system does not offer them. This package imports
only settings and errors.
"""
