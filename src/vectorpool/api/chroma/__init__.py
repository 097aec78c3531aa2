"""Chroma's own protocol at ``/api/v2``: a tenant is a user, a database ``avatar-<id>`` an avatar, each answer Chroma's.

The bodies that carry records are not read here: they pass to the user's shard as they arrive, which decodes them (see
``vectorpool.chroma_bodies``), and its answers pass back byte for byte.
"""
