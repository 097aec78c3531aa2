"""Who calls, and what it may do: tokens that are signed, their keys, their claims, and the tokens that are revoked.

``authority`` is the face of the package. ``access`` decides by a request's method and path what a caller may do. PyJWT
and cryptography are imported in this package alone, by ``signatures``, and only if the settings name a key.
"""
