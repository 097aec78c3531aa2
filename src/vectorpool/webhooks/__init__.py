"""Messages to other people's servers: signed, repeated for a bounded time, and never to addresses of this network.

``addresses`` decides where a message may go, ``signatures`` proves where it came from, ``delivery`` sends it. Only
``delivery`` imports an HTTP client: import it where messages are sent, and not at the start of a process.
"""
