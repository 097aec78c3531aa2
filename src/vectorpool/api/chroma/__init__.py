"""Chroma's own protocol at ``/api/v2``: a tenant is a user, a database ``avatar-<id>`` an avatar, each answer Chroma's.

Bodies that carry records are not read here. They pass to the user's shard while they arrive, and the shard decodes them
(see ``vectorpool.chroma_bodies``). Its answers pass back byte for byte.
"""
