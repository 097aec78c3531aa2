"""The front: the stages that every HTTP request passes, in one order, before the application.

Each stage is an ASGI application with one duty, around the next one. ``vectorpool.front.pipeline`` states the order. A
stage reads the scope, may answer by itself, and never reads a body. ``connection`` bounds each connection before them.
"""
