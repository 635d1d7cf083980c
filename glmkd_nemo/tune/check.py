"""Checks the overrides of all runs before the first one starts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import aggregator_fields, open_sections, task_fields, term_fields
from glmkd_nemo.config.strict import ConfigError, check
from glmkd_nemo.tune.plan import Cell
from glmkd_nemo.tune.settings import CONF, TuneSettings
from glmkd_nemo.tune.spelling import spell
from glmkd_nemo.tune.sweep import interval

_NEMO = "exp_manager"  # its schema is NeMo's: a slow import


def check_cells(cells: Iterable[Cell], search: bool) -> None:
    """Checks overrides as scripts/finetune.py would.

    Its configuration is composed once for each task and for each method.

    Args:
        cells: all of them.
        search: whether intervals may stand in the space.

    Raises:
        ConfigError: one message with all problems.
    """
    problems: dict[str, None] = {}
    tasks, methods, values_seen = set[str](), set[str](), set[str]()
    for cell in cells:
        own = TuneSettings(patience=1).early_stopping
        given = {"task": cell.task} | {k: v for k, v in cell.base.items() if k not in own}
        choices = {key: _choices(key, value, search) for key, value in cell.space.items()}
        try:
            every = [_spelled(key, value) for key, values in choices.items() for value in values]
            _check_keys([*(_spelled(*item) for item in given.items()), *every])
            if cell.task not in tasks or cell.method not in methods:  # slow: not for all pairs
                tasks.add(cell.task)
                methods.add(cell.method)
                first = {key: values[0] for key, values in choices.items()}
                _check_composed([_spelled(*item) for item in (given | first).items()])
            for key, values in choices.items():
                for value in values:
                    if _spelled(key, value) not in values_seen:
                        values_seen.add(_spelled(key, value))
                        _check_type(key, value)
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise ConfigError("\n".join(problems))


def _check_keys(overrides: list[str]) -> None:
    sections = open_sections() if any(text.startswith(_NEMO) for text in overrides) else {}
    check_overrides(overrides, FinetuneSchema, CONF, sections)


def _check_composed(overrides: list[str]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    spelled = check_overrides(
        [text for text in overrides if not text.startswith(_NEMO)], FinetuneSchema, CONF, {}
    )
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("finetune", overrides=spelled)
        with open_dict(cfg):
            cfg.exp_manager.checkpoint_callback_params = {}  # has resolvers of NeMo's
        missing = sorted(OmegaConf.missing_keys(cfg))
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    if missing:
        raise ConfigError("\n".join(f"{key} must be given in overrides" for key in missing))
    plain[_NEMO] = None
    check(plain, FinetuneSchema, {}, term_fields, aggregator_fields, task_fields)


def _check_type(key: str, value: Any) -> None:
    is_group = (CONF / key.split("@")[0]).is_dir()
    if not (is_group or key.startswith(_NEMO) or (isinstance(value, str) and "${" in value)):
        nested = OmegaConf.create({})
        OmegaConf.update(nested, key, value, force_add=True)
        plain: Any = OmegaConf.to_container(nested)
        check(plain, FinetuneSchema)


def _choices(key: str, value: Any, search: bool) -> list[Any]:
    """Every single choice, or the ends of an interval."""
    if not search:
        return Cell("", "", {}, {key: value}).choices(key)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    sweep: Any = OverridesParser.create().parse_override(f"x={interval(value)}").value()
    if hasattr(sweep, "list"):  # a choice
        return value if isinstance(value, list) else list(sweep.list)
    ends = [getattr(sweep, name, None) for name in ("start", "end", "stop")]
    return [end for end in ends if end is not None]


def _spelled(key: str, value: Any) -> str:
    """One override; a best run that is not there yet is any path."""
    known = re.sub(r"\{best:([^}]*)\}", r"best-of-\1", value) if isinstance(value, str) else value
    return f"{key}={spell(known)}"
