"""``.nemo`` archives with sharded weights: saved at one TP, PP, DP and restored at any other.

Layout: ``model_config.yaml``, ``model_weights/`` (Megatron-Core's sharded checkpoint, keys starting
with ``model.``), ``tokenizer/``, and artifacts that a subclass registers.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from nemo.core.classes import common as nemo_common
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector
from nemo.utils import AppState
from omegaconf import DictConfig, OmegaConf, open_dict

from glmkd_nemo.checkpoint.archive import (
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    check_archive,
    extracted,
    pack,
    read_nemo_config,
)
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged, save_shards, write_listing
from glmkd_nemo.checkpoint.weights import WeightsMismatch, compare_weights, load_sharded
from glmkd_nemo.engine.partitioned import sharded_weights
from glmkd_nemo.engine.quiet import without_log_of_errors

__all__ = [
    "CheckpointDamaged",
    "NemoConnector",
    "WeightsMismatch",
    "allow_target",
    "check_archive",
    "check_writable",
    "compare_weights",
    "extracted",
    "load_sharded",
    "load_tokenizer_of",
    "read_nemo_config",
]

# teachers and what only distillation needs stay out of the archive
NOT_EXPORTED = ("distill.", "model.live_teachers.")


def allow_target(prefix: str = "glmkd_nemo.") -> None:
    """Lets NeMo restore classes of this package (it refuses any package not on its list)."""
    if prefix not in nemo_common.ALLOWED_TARGET_PREFIXES:
        nemo_common.ALLOWED_TARGET_PREFIXES.append(prefix)


def check_writable(folder: str | Path) -> None:
    """Refuses a place for results that cannot be written to, before any training.

    Raises:
        ValueError: names the place and the reason.
    """
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"x")
    except OSError as error:
        raise ValueError(
            f"cannot write to {place} ({error.strerror or error}): choose another directory, e.g. "
            "exp_manager.exp_dir=runs"
        ) from error


def load_tokenizer_of(cfg: Any) -> Any:
    """The tokenizer of ``cfg``, or, while an archive is being restored, the one inside it."""
    from glmkd_nemo.data.tokenizer import build_tokenizer, load_tokenizer

    state = AppState()
    if state.is_model_being_restored and state.nemo_file_folder:
        inside = Path(state.nemo_file_folder) / TOKENIZER
        if inside.is_dir():
            return load_tokenizer(inside)
    return build_tokenizer(cfg)


class NemoConnector(SaveRestoreConnector):
    """Saves and restores :class:`~glmkd_nemo.models.modelpt.GLMModelPT`; all ranks call it."""

    def save_to(self, model: Any, save_path: str) -> None:
        """Writes an archive that appears whole or not at all.

        Raises:
            ValueError: the place cannot be written to.
        """
        target = Path(save_path)
        check_writable(target.parent)
        stage = target.with_name(target.name + ".tmp")  # seen by all nodes, as the target is
        first = torch.distributed.get_rank() == 0
        if first:
            shutil.rmtree(stage, ignore_errors=True)
            (stage / WEIGHTS).mkdir(parents=True)
        torch.distributed.barrier()
        weights = sharded_weights(model)
        weights = {k: v for k, v in weights.items() if not k.startswith(NOT_EXPORTED)}
        save_shards(weights, stage / WEIGHTS)
        torch.distributed.barrier()
        if first:
            write_listing(stage / WEIGHTS)
            self._write_rest(model, stage)
            pack(stage, target)
            shutil.rmtree(stage)
        torch.distributed.barrier()

    def _write_rest(self, model: Any, stage: Path) -> None:
        config = stage / CONFIG
        OmegaConf.save(model.export_config(), config, resolve=True)
        model.tokenizer.save(stage / TOKENIZER)
        if model.has_native_or_submodules_artifacts():
            self._handle_artifacts(model, nemo_file_folder=str(stage))
            self._update_artifact_paths(model, path2yaml_file=str(config))

    def restore_from(
        self,
        calling_cls: Any,
        restore_path: str,
        override_config_path: Any = None,
        map_location: Any = None,
        strict: bool = True,
        return_config: bool = False,
        trainer: Any = None,
        validate_access_integrity: bool = True,
    ) -> Any:
        """Builds the model at the trainer's layout (one process without a trainer) and fills it.

        Args:
            calling_cls: class that restores.
            restore_path: archive or unpacked archive.
            override_config_path: configuration to use in place of the archive's.
            strict: refuse weights that are missing, unexpected or of another shape.
            return_config: return the configuration only.
            trainer: with a ``MegatronStrategy``; its processes are started if need be.

        Raises:
            FileNotFoundError, CheckpointDamaged: by name.
            WeightsMismatch: names each weight that does not fit.
        """
        if return_config:
            return read_nemo_config(restore_path)
        _join_processes(trainer)
        with extracted(restore_path) as folder:
            config = _at_this_layout(override_config_path or folder / CONFIG)
            calling_cls._set_model_restore_state(is_being_restored=True, folder=str(folder))
            try:
                with without_log_of_errors():
                    model = calling_cls.from_config_dict(config=config, trainer=trainer)
            finally:
                calling_cls._set_model_restore_state(is_being_restored=False)
            model.configure_model()
            load_sharded(
                model.model,
                folder / WEIGHTS,
                strict,
                label=str(restore_path),
                may_be_new=getattr(model, "may_be_new", ()),
            )
        return model if map_location is None else model.to(map_location)


def _join_processes(trainer: Any) -> None:
    from glmkd_nemo.engine.strategy import join_alone

    if trainer is None:
        join_alone()
        return
    launcher = trainer.strategy.launcher
    if launcher is not None and not torch.distributed.is_initialized():
        launcher.launch(lambda: None, trainer=trainer)
    trainer.strategy.setup_environment()


def _at_this_layout(source: Any) -> DictConfig:
    """A configuration with the parallel sizes that the processes have joined with."""
    config = source if isinstance(source, DictConfig) else OmegaConf.load(source)
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    assert isinstance(config, DictConfig)
    tp = parallel_state.get_tensor_model_parallel_world_size()
    with open_dict(config):
        config.tensor_model_parallel_size = tp
        config.pipeline_model_parallel_size = (
            parallel_state.get_pipeline_model_parallel_world_size()
        )
        config.sequence_parallel = bool(config.get("sequence_parallel")) and tp > 1
    return config
