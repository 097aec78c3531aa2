"""An instance inside the caller's own process: the same pool, without a server.

``vectorpool.open`` starts the shards as child processes, like the service, and runs the application of both protocols
on an event loop in a thread of its own. Calls go to that application without a socket, so that they have the same
checks, bounds, errors and answers as over HTTP. The caller's process never loads the engine, and no crash of native
code ends it. ``handles`` and ``async_handles`` are the two faces, ``operations`` what both ask, ``runner`` the thread,
``opening`` reads the settings, and ``chroma`` a client of Chroma's own package on top.
"""
