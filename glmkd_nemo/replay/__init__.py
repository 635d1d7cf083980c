"""Replays recorded reference cases (flags, weights, inputs, numbers) through this project."""
