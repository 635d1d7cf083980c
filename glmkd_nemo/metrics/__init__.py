"""Metrics of downstream tasks, as their benchmarks define them."""
