"""Tuning: tasks x methods x hyper-parameters x seeds, many fine-tunings in parallel, resumable."""
