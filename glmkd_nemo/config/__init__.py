"""Strict configuration: every key is known, and a wrong one is answered with the nearest."""
