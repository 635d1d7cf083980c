"""Checkpoints: sharded directories, ``.nemo`` archives, import of the original GLM."""
