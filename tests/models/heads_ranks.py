"""Heads on two ranks: every layout gives what data parallelism of whole models gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import load_whole
from glmkd_nemo.checkpoint.sharded import save_directory
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.distill.gather import whole_gradients, whole_logits
from glmkd_nemo.distill.method import ModelShape, StepContext, batch_of
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.engine import schedule
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.heads import HeadConfig
from tests.distill.ranks import layout
from tests.models.heads import CASES, VOCAB, Form, fill_vocab_map, sequences
from tests.models.tiny import SECTION

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"tp": 2},
    "tp2_sp": {"tp": 2, "sp": True},
    "tp2_sp_recompute": {"tp": 2, "sp": True, "recompute": "full"},
    "pp2": {"pp": 2},
}
Result = tuple[Tensor, float, dict[str, Tensor]]


def everything(folder: str) -> dict[str, list[str]]:
    """All checks of this file; by name, what is wrong."""
    found: dict[str, list[str]] = {}
    with layout():
        weights = {name: _whole_weights(form) for name, form in CASES.items()}
        expected = {name: _run(name, weights[name]) for name in CASES}
    for where, how in LAYOUTS.items():
        with layout(how.get("tp", 1), how.get("pp", 1)):
            for name in CASES:
                mine = _run(name, weights[name], how.get("sp", False), how.get("recompute"))
                found[f"{name}-{where}"] = _compare(mine, expected[name])
    found["dropout"] = dropout()
    found["checkpoint"] = checkpoint(Path(folder))
    return found


def _model(form: Form, sp: bool = False, recompute: str | None = None) -> GLMModel:
    parallel = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sp,
    }
    section = {
        **SECTION,
        "num_layers": 2,
        "make_vocab_size_divisible_by": 1,
        "activations_checkpoint_granularity": recompute,
        **form.section,
    }
    config = glm_config_from_cfg(section, VOCAB, parallel=parallel)
    config.params_dtype = config.pipeline_dtype = torch.float64
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    torch.manual_seed(7)
    model = GLMModel(config, pre_process=first, post_process=last, head=form.head).double()
    fill_vocab_map(model)
    return model


def _whole_weights(form: Form) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in _model(form).named_parameters()}


def _run(
    name: str, weights: dict[str, Tensor], sp: bool = False, recompute: str | None = None
) -> Result:
    """Class logits, loss and gradients of a step with the hard loss."""
    form = CASES[name]
    model, batch = _model(form, sp, recompute), form.fields()
    load_whole(model, weights)
    term = term_from_dict("hard", {"method": "hard", "of": "classes"}, [])
    step = DistillationStep(model.config, Objective({"hard": term}, ModelShape(2, 16, 4), {}), {})
    ddp = DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)
    step.start(StepContext(), num_microbatches=1)
    ddp.zero_grad_buffer()
    schedule.run(step, [batch], [ddp], forward_only=False)
    finalize_model_grads([ddp])
    loss = float(step.finish()["loss"])
    return whole_logits(model, batch_of(batch)), loss, whole_gradients(model)


def _compare(mine: Result, expected: Result) -> list[str]:
    wrong = []
    if mine[2].keys() != expected[2].keys():
        wrong.append(f"gradients of {sorted(mine[2].keys() ^ expected[2].keys())} on one side only")
    pairs = {"classes": (mine[0], expected[0])}
    pairs["loss"] = (torch.tensor(mine[1]), torch.tensor(expected[1]))
    pairs.update({n: (mine[2][n], expected[2][n]) for n in mine[2].keys() & expected[2].keys()})
    for name, (x, y) in pairs.items():
        error = (x.double() - y.double()).norm() / y.double().norm().clamp(min=1e-9)
        dist.all_reduce(error, op=dist.ReduceOp.MAX)
        if not float(error) <= 1e-6:  # DDP keeps gradients in fp32
            wrong.append(f"{name}: off by {float(error):.1e}")
    return wrong


def dropout() -> list[str]:
    """The pooled head drops the same elements on every tensor-parallel rank."""
    wrong = []
    form = Form(HeadConfig("pooled", num_classes=3, dropout=0.5), sequences)
    for sp in (False, True):
        with layout(tp=2):
            model, batch = _model(form, sp).train(), batch_of(form.fields())
            inputs = batch.input_ids, batch.position_ids, batch.attention_mask
            first, second = (model(*inputs, task=batch.task) for _ in range(2))
            everyone = [torch.empty_like(first) for _ in range(2)]
            dist.all_gather(everyone, first.detach())
            if not torch.equal(*everyone):
                wrong.append(f"sp={sp}: ranks drop different elements")
            if torch.equal(first, second):
                wrong.append(f"sp={sp}: nothing is dropped")
    return wrong


def checkpoint(folder: Path) -> list[str]:
    """A head saved under tensor parallelism is read in a pipeline, and by a whole model."""
    wrong = []
    form = CASES["cls"]
    with layout(tp=2):
        saved = _model(form, sp=True)
        save_directory(saved.sharded_state_dict(prefix="model."), folder / "weights")
        parameters = {n: p.detach().clone() for n, p in saved.head.named_parameters()}
    for pp in (2, 1):
        with layout(pp=pp):
            torch.manual_seed(8)
            model = _model(form)
            for parameter in model.parameters():
                torch.nn.init.zeros_(parameter)
            load_sharded(model, folder / "weights")
            if model.head is None:
                continue
            loaded = dict(model.head.named_parameters())
            if loaded.keys() != parameters.keys():
                wrong.append(f"pp={pp}: {sorted(loaded)}")
            for name, parameter in loaded.items():
                if not torch.equal(parameter, parameters[name]):
                    wrong.append(f"pp={pp}: {name} differs")
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, wrong)
    return [line for lines in gathered for line in lines]
