"""``model.student_init`` through the real models: an archive, and students that start from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.models.distill_modelpt import GLMDistillModelPT
from glmkd_nemo.models.modelpt import GLMModelPT
from tests.distillation.runs import config, write_text

WEIGHT = "decoder.layers.0.mlp.linear_fc1.weight"
STUDENT = {"model__num_layers": 2, "model__distill": {"terms": {"kd": {"method": "kd"}}}}


def run(root: Path) -> dict[str, Any]:
    """Leading slices of a weight of the teacher and of students, and messages of refusals."""
    write_text(root)
    teacher = _built(GLMModelPT, config(root, root))
    archive = str(root / "teacher.nemo")
    teacher.save_to(archive)
    hosted = {"model__teachers": {"t0": {"restore_from_path": archive}}, **STUDENT}
    half = {**hosted, "model__teachers__t0__precision": "bf16"}
    other = {"model__tokenizer__path": str(root / "other.txt")}
    cases: dict[str, tuple[type, dict[str, Any]]] = {
        "hosted": (GLMDistillModelPT, {**hosted, "model__student_init": {"teacher": "t0"}}),
        "rounded": (GLMDistillModelPT, {**half, "model__student_init": {"teacher": "t0"}}),
        "archive": (GLMDistillModelPT, {**hosted, "model__student_init": {"teacher": archive}}),
        "plain": (GLMModelPT, {"model__student_init": {"teacher": archive}}),
        "random": (GLMDistillModelPT, hosted),
        "unknown": (GLMDistillModelPT, {**hosted, "model__student_init": {"teacher": "t9"}}),
        "vocabulary": (GLMModelPT, {**other, "model__student_init": {"teacher": archive}}),
    }
    found: dict[str, Any] = {"teacher": _slice(teacher)}
    for name, (kind, changes) in cases.items():
        try:
            found[name] = _slice(_built(kind, config(root, root, model__seed=3, **changes)))
        except ValueError as error:
            found[name] = str(error)
    restored = _built(GLMModelPT, config(root, root, model__student_init={"teacher": archive}))
    restored.save_to(str(root / "student.nemo"))
    return {**found, "kept": _kept(restored)}


def _built(kind: type, cfg: DictConfig) -> Any:
    torch.manual_seed(0)
    section = cfg.model
    assert isinstance(section, DictConfig)
    OmegaConf.resolve(section)
    model = kind(section)
    model.configure_model()
    return model


def _slice(model: Any) -> list[float]:
    weight = dict(model.glm.named_parameters())[WEIGHT]
    return weight[:4, :4].flatten().tolist()


def _kept(model: Any) -> bool:
    """Whether an exported configuration still asks for the start."""
    return "student_init" in model.export_config()
