"""Self-contained pages about runs."""
