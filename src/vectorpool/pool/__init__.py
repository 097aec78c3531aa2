"""pool: see ARCHITECTURE.md."""
