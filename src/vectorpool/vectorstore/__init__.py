"""vectorstore: see ARCHITECTURE.md."""
