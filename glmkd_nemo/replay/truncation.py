"""Recorded cases of a student that starts as a piece of a teacher, in the layout that is set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.core import parallel_state
from safetensors.torch import load_file
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import (
    WORD_EMBEDDINGS,
    from_original,
    load_whole,
    original_sizes,
    to_original,
)
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.truncate import start_from, whole_weights
from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.compare import Error, tensor_error
from glmkd_nemo.replay.vocab_maps import sizes_with_map

COLLECTION = "truncate"
HEADS = 4  # of all recorded models
# Where heads become narrower these are cut head by head, not as the recorded block (golden README)
BY_HEAD = ("query_key_value.weight", "query_key_value.bias", "attention.dense.weight")


def replay_truncation(case: Case, sequence_parallel: bool) -> tuple[list[Error], str]:
    """Cuts the student out of the teacher; every rank calls it.

    Returns:
        The errors of its weights, and which weights do not count.
    """
    student, sizes = _model(case, "student_before", sequence_parallel)
    teacher, teacher_sizes = _model(case, "teacher", sequence_parallel)
    start_from(student, teacher.config, whole_weights(teacher))
    rows = student.config.word_rows
    ours = {n: t[:rows] if n == WORD_EMBEDDINGS else t for n, t in whole_weights(student)}
    found = to_original({name: t.cpu() for name, t in ours.items()}, HEADS)
    narrower = sizes["hidden_size"] < teacher_sizes["hidden_size"]
    recorded = case.tensors
    counted = [n for n in recorded if not (narrower and n.endswith(BY_HEAD))]
    errors = [Error("weight", name, tensor_error(found[name], recorded[name])) for name in counted]
    remark = f"{len(errors)} weights, worst {max(e.value for e in errors):.1e}"
    if narrower:
        remark += "; query_key_value and dense's columns are cut per head: not compared"
    return errors, remark


def _model(case: Case, which: str, sequence_parallel: bool) -> tuple[GLMModel, dict[str, Any]]:
    file = case.record[which]
    state: dict[str, Tensor] = load_file(case.root / file)
    mapped = sizes_with_map(case.root, Path(file).name)
    sizes = {**original_sizes(state), "num_attention_heads": HEADS, **mapped}
    layout = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sequence_parallel,
        "transformer_engine": False,
    }
    model = GLMModel(
        glm_config_from_cfg({**sizes, **layout}, sizes["vocab_size"]),
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    load_whole(model, from_original(state, HEADS))
    if model.vocab_map is not None:
        model.vocab_map.fill(sizes["tables"])
    return model, sizes
