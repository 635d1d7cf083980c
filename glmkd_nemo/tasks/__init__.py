"""Downstream tasks: SuperGLUE, language modelling, sequence to sequence."""
