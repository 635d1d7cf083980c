"""From a teacher's ``.nemo`` and its section of the configuration to a :class:`Teacher`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from omegaconf import DictConfig, open_dict
from torch import nn

from glmkd_nemo.checkpoint.archive import WEIGHTS, extracted, read_nemo_config
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.config.schema import TeacherSection
from glmkd_nemo.distill.offload import CudaMover, LayerBuffers, OffloadedLayers
from glmkd_nemo.distill.teachers import Teacher
from glmkd_nemo.engine.precision import teacher_precision
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig


def teacher_cfg(name: str, section: DictConfig) -> DictConfig:
    """The configuration inside a teacher's archive; fp8 is as this run's section says.

    Raises:
        ValueError: there is no archive.
    """
    if not section.get("restore_from_path"):
        raise ValueError(
            f"model.teachers.{name}.restore_from_path is not set: give the .nemo of a GLM trained "
            "by scripts/pretrain.py."
        )
    cfg = read_nemo_config(section.restore_from_path)
    with open_dict(cfg):
        for field in dataclasses.fields(TeacherSection):
            if field.name.startswith("fp8") or field.name == "transformer_engine":
                cfg[field.name] = section.get(field.name, field.default)
        if not section.get("trainable"):
            cfg.activations_checkpoint_granularity = None  # there is no backward to recompute for
    return cfg


def refuse_standing_in(name: str, section: Mapping[str, Any], student: Any) -> None:
    """Refuses settings of a teacher whose layers stand in for a student's (``theseus``).

    Args:
        name, section: of the teacher.
        student: the student's precision.

    Raises:
        ValueError: another precision than the student's, or weights in the host's memory.
    """
    where = f"model.teachers.{name}"
    own = teacher_precision(section, student, where)
    if own != teacher_precision({}, student, where):
        raise ValueError(
            f"{where}.precision={own}: layers of this teacher run in the place of the student's, "
            "and so need its precision: leave it null."
        )
    if section.get("offload"):
        raise ValueError(
            f"{where}.offload=true: layers of this teacher run in the place of the student's, in "
            "no order of their own: set it to false."
        )


class TeacherLoader:
    """Loads the teachers of a run.

    Args:
        model: the section ``model``.
        device: of this rank.
        vocab_size: of the tokenizer.
        head: of the task, if there is one.
        check_archive: refuses a teacher by its path and the folder that holds its archive.
    """

    def __init__(
        self,
        model: DictConfig,
        device: torch.device,
        vocab_size: int,
        head: HeadConfig | None,
        check_archive: Callable[[str, Path], None],
    ) -> None:
        self._model, self._device, self._vocab_size = model, device, vocab_size
        self._head, self._check = head, check_archive
        self._buffers: LayerBuffers | None = None

    def load(
        self, name: str, cfg: DictConfig, split: list[int], tapped: Collection[int]
    ) -> Teacher:
        """This rank's stage and shard of a teacher.

        Args:
            name: its section of ``model.teachers``.
            cfg: of :func:`teacher_cfg`.
            split: layers per pipeline stage.
            tapped: layers of which a tensor may be tapped.

        Raises:
            ValueError: an archive that does not fit.
        """
        section = self._model.teachers[name]
        precision = teacher_precision(section, self._model.get("precision"), name)
        config = glm_config_from_cfg(
            cfg, self._vocab_size, parallel=self._model, split=split, precision=precision
        )
        if section.get("offload"):  # the device never has all of it
            config.use_cpu_initialization, config.perform_initialization = True, False
        path = section.restore_from_path
        with extracted(path) as folder:
            self._check(path, folder)
            model = GLMModel(
                config,
                pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
                post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
                tapped_layers=tapped,
                head=self._head,
            )
            load_sharded(model, folder / WEIGHTS, label=str(path))
        model = model.to(dtype=config.params_dtype)
        if not section.get("offload"):
            return Teacher(model.to(device=self._device), trainable=bool(section.get("trainable")))
        self._buffers = self._buffers or LayerBuffers(CudaMover())
        return Teacher(model, offloaded=offload(model, self._buffers, self._device))


def offload(model: GLMModel, buffers: LayerBuffers, device: torch.device) -> OffloadedLayers:
    """Keeps a model's layers in the host's memory, and moves the rest of it to the device."""
    layers = model.decoder.layers
    model.decoder.layers = nn.ModuleList()
    model.to(device=device)
    model.decoder.layers = layers
    return OffloadedLayers(layers, buffers)
