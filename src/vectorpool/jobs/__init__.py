"""Durable workflows. Empty as yet: ingestion runs inside the request."""
