"""Plans a run before it is started: memory of every rank, fit, step time, and the best layout."""
