"""Vectorstores in other databases, and back: targets and sources, each named by a URL.

Purpose: users are not locked in, and a second home holds a copy that is current. ``copying`` copies one user's
vectorstore as of one commit to a ``Sink``, or makes one of what a ``Source`` holds. ``places`` finds the sink and the
source of a URL. Each other module knows one kind of place, and imports its driver when it is opened.

Invariants: an export is what one commit holds, and the target says which; it is repeated without harm. What a target
cannot hold is refused by name, never left out. Passwords are in no message. Work here blocks, and belongs in a thread.
"""
