"""Care of what is stored: checks of health, the canary, recovery of damaged vectorstores, webhooks of notifications.

It runs in the front, and asks shards by commands like a request does. Nothing here is needed for safety.
"""
