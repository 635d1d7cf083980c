"""Functions that tests/models runs on several ranks, many cases per launch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import finalize_model_grads
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import load_whole
from glmkd_nemo.checkpoint.sharded import save_shards
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.distill.gather import whole_gradients
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.blank_filling import token_mean
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.engine.overlap import check_complete
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.truncate import start_from, whole_weights
from tests.distill.ranks import layout

VOCAB, SEQUENCE = 61, 8
SECTION: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 16,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "init_method_std": 0.3,
    "make_vocab_size_divisible_by": 8,
    "transformer_engine": False,
}
ALBERT = {"share_layers": True, "embedding_size": 12}
STUDENT = {"bottleneck_size": 8, "bottleneck_ffns": 3, "bottleneck_word_embedding": 5}
TEACHER = {"bottleneck_size": 24, "bottleneck_word_embedding": 5}
FORMS: dict[str, dict[str, Any]] = {
    "albert": ALBERT,
    "student": STUDENT,
    "teacher": TEACHER,
    "all": {**ALBERT, **STUDENT},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {"tp": 2},
    "tp2_sp": {"tp": 2, "sp": True},
    "tp2_sp_recompute": {"tp": 2, "sp": True, "recompute": "full"},
    "pp2": {"pp": 2},
    "pp2_recompute": {"pp": 2, "recompute": "full"},
}


def build(
    changes: dict[str, Any], sp: bool = False, recompute: str | None = None, seed: int = 3
) -> GLMModel:
    """This rank's stage of a model; stages draw weights of their own."""
    parallel = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sp,
        "activations_checkpoint_granularity": recompute,
    }
    seed += parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return GLMModel(
        glm_config_from_cfg({**SECTION, **changes, **parallel}, VOCAB),
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )


def batch(seed: int, size: int = 4) -> dict[str, Tensor]:
    """Samples with contexts of different lengths."""
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(VOCAB, (size, SEQUENCE + 1), generator=g)
    sep = torch.randint(2, SEQUENCE - 1, (size,), generator=g)
    position = torch.arange(SEQUENCE).expand(size, SEQUENCE)
    block = (position - sep.unsqueeze(1)).clamp(min=0)
    return {
        "input_ids": words[:, :-1].contiguous(),
        "labels": words[:, 1:].contiguous(),
        "position_ids": torch.stack([position, block], 1),
        "attention_mask": sep,
        "loss_mask": (position >= sep.unsqueeze(1)).float(),
    }


def _forward_step(data: Any, model: Any) -> Any:
    one = next(data)
    ids = one["input_ids"], one["position_ids"], one["attention_mask"]
    return model(*ids, materialize=False), partial(token_mean, one)


def train(model: GLMModel, steps: int = 2) -> dict[str, Any]:
    """Steps of two micro-batches; gradients of the first, losses and norms of all."""
    (ddp,) = schedule.wrap_in_ddp([model], model.config, "mcore_distributed_optim")
    optim = {"name": "mcore_distributed_optim", "lr": 1e-2, "clip_grad": 1.0}
    optimizer = build_optimizer(optim, "32", [ddp])
    model.train()
    found: dict[str, Any] = {"losses": [], "norms": [], "gradients": {}}
    for step in range(steps):
        ddp.zero_grad_buffer()
        optimizer.zero_grad()
        micro = schedule.split(batch(step), 2)
        rows = schedule.run(schedule.with_total(_forward_step), micro, [ddp], forward_only=False)
        model.decoder.sum_gradients()
        finalize_model_grads([ddp])
        found["gradients"] = found["gradients"] or whole_gradients(model)
        optimizer.step()
        box = [[float(row["loss"]) for row in rows]]
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast_object_list(box, src=last, group=group)
        found["losses"].append(sum(box[0]) / 2)
        found["norms"].append(float(optimizer.grad_norm or 0.0))
    return found


def trained(states: dict[str, dict[str, Tensor]], folder: str) -> dict[str, dict[str, Any]]:
    """By form, then layout: two steps from the given weights; and a checkpoint of each form."""
    found: dict[str, dict[str, Any]] = {}
    for form, state in states.items():
        found[form] = {}
        for name, settings in LAYOUTS.items():
            rest = {k: v for k, v in settings.items() if k not in ("tp", "pp")}
            with layout(settings.get("tp", 1), settings.get("pp", 1)):
                model = build(FORMS[form], **rest)
                load_whole(model, state)
                found[form][name] = train(model)
        found[form]["checkpoint"] = _moved(form, state, Path(folder, form))
        found[form]["start"] = _start_is_one_model(form)
    found["overlap"] = overlapped()
    return found


def overlapped() -> dict[str, Any]:
    """Three steps of two replicas on data of their own, reduced in several ways."""
    ways: dict[str, dict[str, Any]] = {
        "after": {},
        "overlapped": {"overlap_grad_reduce": True, "bucket_size": 500},
        "averaged": {"overlap_grad_reduce": True, "average_in_collective": True},
    }
    found: dict[str, Any] = {}
    for optimizer in ("adam", "mcore_distributed_optim"):
        for way, engine in ways.items():
            with layout(1):
                model = build(STUDENT)
                (ddp,) = schedule.wrap_in_ddp([model], model.config, optimizer, engine)
                optim = {"name": optimizer, "lr": 1e-2, "clip_grad": 1.0}
                taken = _replica_steps(ddp, build_optimizer(optim, "32", [ddp]))
                found[f"{optimizer} {way}"] = {**taken, "buckets": len(ddp.bucket_groups)}
    with layout(1):
        model = build({})
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
        (ddp,) = schedule.wrap_in_ddp([model], model.config, "adam", ways["overlapped"])
        try:
            _replica_steps(ddp, build_optimizer({"name": "adam", "lr": 1e-2}, "32", [ddp]))
        except ValueError as error:
            found["unused"] = str(error)
    return found


def _replica_steps(ddp: Any, optimizer: Any, steps: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {"norms": [], "early": []}
    for step in range(steps):
        ddp.zero_grad_buffer()
        optimizer.zero_grad()
        micro = schedule.split(batch(10 * step + dist.get_rank()), 2)
        schedule.run(schedule.with_total(_forward_step), micro, [ddp], forward_only=False)
        found["early"].append(all(g.grad_reduce_handle is not None for g in ddp.bucket_groups))
        check_complete([ddp])
        finalize_model_grads([ddp])
        optimizer.step()
        found["norms"].append(float(optimizer.grad_norm))
    return {**found, "weights": [p.detach().clone() for p in ddp.parameters()]}


def _moved(form: str, state: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    """Weights saved by two stages and loaded over two tensor-parallel ranks; names saved."""
    with layout(pp=2):
        model = build(FORMS[form])
        load_whole(model, state)
        sharded = model.sharded_state_dict(prefix="model.")
        names = sorted(t.key for t in sharded.values())
        if dist.get_rank() == 0:
            folder.mkdir(parents=True)
        dist.barrier()
        save_shards(sharded, folder)
    with layout(tp=2):
        model = build(FORMS[form], sp=True, seed=9)
        load_sharded(model, folder)
        return {"names": names, "weights": dict(whole_weights(model))}


def _start_is_one_model(form: str) -> dict[str, Any]:
    """Numbers of parameters over two stages, and whether copies of shared weights agree."""
    with layout(pp=2):
        model = build(FORMS[form])
        counts: list[int] = [0, 0]
        dist.all_gather_object(counts, model.num_parameters())
        first = [p.detach() for p in model.decoder.layers[0].parameters()]
        everyone: list[list[Tensor]] = [[], []]
        dist.all_gather_object(everyone, first)
        equal = all(torch.equal(a, b) for a, b in zip(*everyone, strict=True))
        return {"parameters": sum(counts), "equal": equal}


def truncated(
    teacher: dict[str, Any], student: dict[str, Any], choices: list[list[int] | None]
) -> list[dict[str, dict[str, Tensor]]]:
    """By choice of layers, then layout: a student's whole weights, cut out of a teacher."""
    found: list[dict[str, dict[str, Tensor]]] = [{} for _ in choices]
    for name, settings in {"tp2_sp": {"tp": 2, "sp": True}, "pp2": {"pp": 2}}.items():
        sp = bool(settings.get("sp", False))
        with layout(int(settings.get("tp", 1)), int(settings.get("pp", 1))):
            large, small = build(teacher["changes"], sp), build(student["changes"], sp)
            load_whole(large, teacher["state"])
            for i, layers in enumerate(choices):
                load_whole(small, student["state"])
                start_from(small, large.config, whole_weights(large), layers)
                found[i][name] = {n: w.clone() for n, w in whole_weights(small)}
    return found
