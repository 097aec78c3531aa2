"""shard: see ARCHITECTURE.md."""
