"""embedding: see ARCHITECTURE.md."""
