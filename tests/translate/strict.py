"""Loads what a translated command would load, as its script does, without building a model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from glmkd_nemo.checkpoint.convert_settings import load_request
from glmkd_nemo.config.evaluate import EvaluateSchema
from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.generate import GenerateSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import CONF, aggregator_fields, task_fields, term_fields
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import check
from glmkd_nemo.translate import Command
from glmkd_nemo.tune.plan import cells, waves
from glmkd_nemo.tune.settings import load_settings
from glmkd_nemo.tune.spelling import spell

SCHEMAS = {
    "pretrain": PretrainSchema,
    "finetune": FinetuneSchema,
    "evaluate": EvaluateSchema,
    "generate": GenerateSchema,
}
_GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()}


def load(command: Command) -> list[dict[str, Any]]:
    """The configurations that a command's runs have, each checked strictly."""
    if command.script == "convert_checkpoint":
        load_request(list(command.overrides))
        return []
    if command.script != "tune":
        return [composed(command.script, command.overrides)]
    settings = load_settings(list(command.overrides))
    found = [cell for wave in waves(cells(settings)) for cell in wave]
    return [
        composed("finetune", tuple(_overrides({"task": cell.task, **cell.base}))) for cell in found
    ]


def _overrides(section: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        yield f"{key}={spell(value)}"


@functools.cache
def composed(script: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """One run's configuration: groups by Hydra, keys by the grammar of overrides."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    schema = SCHEMAS[script]
    spelled = check_overrides(list(overrides), schema, CONF, {})
    groups = tuple(text for text in spelled if text.partition("=")[0] in _GROUPS)
    cfg = OmegaConf.create(OmegaConf.to_container(_groups(script, groups)))
    keys = [text for text in spelled if text not in groups]
    for override in OverridesParser.create().parse_overrides(keys):
        OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
    if "exp_manager" in cfg:
        cfg.exp_manager.checkpoint_callback_params = {}  # has resolvers of NeMo's
    assert not OmegaConf.missing_keys(cfg), sorted(OmegaConf.missing_keys(cfg))
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    if "exp_manager" in plain:
        plain["exp_manager"] = None
    check(plain, schema, {}, term_fields, aggregator_fields, task_fields)
    return plain


@functools.cache
def _groups(script: str, groups: tuple[str, ...]) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, overrides=list(groups))
