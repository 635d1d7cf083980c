"""Tokenizers, indexed corpora, blank infilling and loading."""
