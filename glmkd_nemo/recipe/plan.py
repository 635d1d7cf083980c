"""A recipe as a plan: its stages in order, each a complete command of one of the scripts."""

from __future__ import annotations

from collections.abc import Sequence

from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.planner import Planner
from glmkd_nemo.recipe.settings import load_settings
from glmkd_nemo.recipe.stage import Recipe, Stage

__all__ = ["Recipe", "Stage", "load_recipe"]


def load_recipe(name_or_file: str, changes: Sequence[str] = ()) -> Recipe:
    """The plan of a recipe.

    Args:
        name_or_file: a file of ``conf/recipe`` without suffix, or the path of a YAML file.
        changes: see :func:`~glmkd_nemo.recipe.settings.load_settings`.

    Raises:
        ValueError: a key, name or value that cannot be; it names the recipe and the key.
        OSError: a file that cannot be read.
    """
    name, settings = load_settings(name_or_file, changes)
    try:
        return Planner(name, settings).recipe()
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
