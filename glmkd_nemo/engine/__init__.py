"""Engines: Megatron-Core on CPU or CUDA, the Lightning strategy, the optimizer wrapper."""
