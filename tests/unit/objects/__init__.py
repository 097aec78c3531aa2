"""Tests of the bucket and its wrappers, without a network."""
