"""Recipes: chains of trainings from pre-training to the task (conf/recipe)."""
