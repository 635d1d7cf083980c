"""A recipe as a plan: its stages in order, each a complete command of one of the scripts."""

from __future__ import annotations

from collections.abc import Sequence

from glmkd_nemo.config.evaluate import EvaluateSchema
from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.generate import GenerateSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.planner import Planner
from glmkd_nemo.recipe.settings import load_settings
from glmkd_nemo.recipe.stage import Recipe, Stage
from glmkd_nemo.tune.settings import CONF

__all__ = ["SCHEMAS", "Recipe", "Stage", "load_recipe"]

# Scripts with a configuration to compose: the ones that run a process per device and join what
# srun or torchrun started
SCHEMAS: dict[str, type] = {
    "pretrain": PretrainSchema,
    "finetune": FinetuneSchema,
    "evaluate": EvaluateSchema,
    "generate": GenerateSchema,
}


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
        recipe = Planner(name, settings).recipe()
        check_commands(recipe)
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
    return recipe


def check_commands(recipe: Recipe) -> None:
    """Refuses keys and groups that the stages' scripts do not know.

    Keys of methods and tasks are left to the scripts: to know them takes Megatron-Core.

    Raises:
        ConfigError: all of them, with the nearest known ones.
    """
    for script, schema in SCHEMAS.items():
        stages = [stage for stage in recipe.stages if stage.script == script]
        arguments = dict.fromkeys(a for stage in stages for a in stage.arguments)
        check_overrides(list(arguments), schema, CONF, {})
