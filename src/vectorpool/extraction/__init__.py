"""From a document's bytes to its text, in a process without rights.

Promises: a document is a stranger's, whatever its name says, so all but small plain text is read in a process of its
own, forked for that one document, which has no files, no sockets, bounded memory and time, and ends with it; what a
document does there, it does to itself. The same bytes, name and version give the same text. A document that cannot be
read is refused with a reason that says what to do.

``formats`` is the table of what can be read, and ``readers`` maps it to a module for each kind. ``workshop`` is the
caller's side, ``process`` the other. It knows nothing of users, stores and models.
"""
