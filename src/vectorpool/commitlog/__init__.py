"""commitlog: see ARCHITECTURE.md."""
