"""Stages of a recipe as Slurm jobs, or one after the other on this machine."""
