"""Entry points of scripts: Hydra, strict configuration, one clear message for a user's error."""

from __future__ import annotations

import functools
import os
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import ConfigError, check
from glmkd_nemo.engine import quiet

CONF = Path(__file__).resolve().parents[2] / "conf"
USER_ERROR = 2
Main = Callable[[DictConfig], int | None]


def term_fields(method: str) -> Iterable[str]:
    """Keys of a term of ``model.distill.terms`` that uses ``method``.

    Raises:
        ValueError: an unknown method, with the nearest known one.
    """
    import dataclasses

    from glmkd_nemo.distill.methods import method_class
    from glmkd_nemo.distill.objective import TermConfig

    own = [f.name for f in dataclasses.fields(TermConfig) if f.name != "options"]
    return [*own, *(f.name for f in dataclasses.fields(method_class(method).Config))]


def aggregator_fields(name: str) -> Iterable[str]:
    """Keys of ``model.distill.aggregator`` with this name.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    import dataclasses

    from glmkd_nemo.distill.aggregators import aggregator_class

    return ["name", *(f.name for f in dataclasses.fields(aggregator_class(name).Config))]


def task_fields(name: str) -> Iterable[str]:
    """Keys of ``task`` with this name.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    from glmkd_nemo.tasks import registry

    return registry.task_fields(name)


def open_sections() -> dict[str, type]:
    """Schemas of sections that belong to other packages (NeMo's experiment manager)."""
    from nemo.utils.exp_manager import ExpManagerConfig

    return {"exp_manager": ExpManagerConfig}


def glm_main(
    config_name: str, schema: type = PretrainSchema, conf: Path = CONF
) -> Callable[[Main], Callable[[], None]]:
    """Decorates ``main(cfg)`` of a script.

    The configuration is composed by NeMo's ``hydra_runner`` and checked strictly: an unknown key
    in a file or on the command line ends the program with one line that names it and the nearest
    known key. Errors that the user can mend (``ValueError``, ``OSError``) are printed as their
    message; ``GLMKD_DEBUG=1`` shows the traceback. Exit code 2.

    Args:
        config_name: YAML file in ``conf`` without suffix.
        schema: dataclass of the whole configuration.
        conf: directory of the configuration groups.
    """

    def decorator(main: Main) -> Callable[[], None]:
        @functools.wraps(main)
        def script() -> None:
            sys.exit(_guarded(lambda: _compose_and_run(main, config_name, schema, conf)))

        return script

    return decorator


def _guarded(action: Callable[[], int | None]) -> int:
    try:
        return action() or 0
    except (ValueError, OSError, OmegaConfBaseException) as error:
        if quiet.debugging():
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one rank speaks
            hint = "" if isinstance(error, ConfigError) else "\n(GLMKD_DEBUG=1 shows where)"
            print(f"error: {error}{hint}", file=sys.stderr, flush=True)
        if isinstance(error, ConfigError) or "torch.distributed" not in sys.modules:
            return USER_ERROR
        _leave()
        return USER_ERROR


def _leave() -> None:
    """Ends a rank whose peers may be waiting for it: no destructor may wait for them."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(USER_ERROR)


def _compose_and_run(main: Main, config_name: str, schema: type, conf: Path) -> int | None:
    flags = [a for a in sys.argv[1:] if a.startswith("-")]
    plain_arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    asks_nemo = any("exp_manager" in argument for argument in plain_arguments)  # a slow import
    sections = open_sections() if asks_nemo else {}
    spelled = check_overrides(plain_arguments, schema, conf, sections)
    sys.argv[1:] = [*flags, *spelled]  # also what Lightning starts further ranks with
    from nemo.core.config import hydra_runner

    quiet.screen()
    outcome: list[Any] = [None, None]  # exit code, error: Hydra would print a traceback of its own

    def checked(cfg: DictConfig) -> None:
        try:
            _check(cfg, schema)
            outcome[0] = main(cfg)
        except (ValueError, OSError, OmegaConfBaseException) as error:
            outcome[1] = error

    hydra_runner(config_path=str(conf), config_name=config_name)(checked)()
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def further(config_name: str, schema: type, conf: Path = CONF) -> Callable[[list[str]], DictConfig]:
    """A function that composes the running script's configuration with further overrides.

    Args:
        config_name, schema, conf: as of :func:`glm_main`.

    Returns:
        Of overrides ``["method=kd", "model.optim.lr=1e-5"]`` the checked configuration. It raises
        ConfigError.
    """

    def compose(overrides: list[str]) -> DictConfig:
        import hydra
        from hydra.core.hydra_config import HydraConfig

        spelled = check_overrides(overrides, schema, conf, open_sections())
        given = list(HydraConfig.get().overrides.task)
        cfg = hydra.compose(config_name, overrides=[*given, *spelled])
        _check(cfg, schema)
        return cfg

    return compose


def _check(cfg: DictConfig, schema: type) -> None:
    _check_given(cfg)
    plain = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    check(plain, schema, open_sections(), term_fields, aggregator_fields, task_fields)


def _check_given(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("\n".join(f"{key} must be given: write {key}=..." for key in missing))
