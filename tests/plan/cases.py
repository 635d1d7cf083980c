"""What needs process groups, fake or real, run once in a process of its own (see conftest.py)."""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from glmkd_nemo.distill import losses
from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.row_loss import HardLabels
from glmkd_nemo.distill.taps import record
from glmkd_nemo.distill.workspace import rows_on_gpu
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.blank_filling import token_mean
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.plan.activations import Tokens, kept_by_layer
from glmkd_nemo.plan.build import Request, build_rank
from glmkd_nemo.plan.layout import Layout
from glmkd_nemo.plan.main import main

VOCAB, BATCH, LENGTH = 200, 2, 64


class Section(dict[str, Any]):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__


OPTIM = Section(name="mcore_distributed_optim", lr=1e-4, weight_decay=0.1, betas=[0.9, 0.98])


def section(layers: int = 2, hidden: int = 64, **more: Any) -> dict[str, Any]:
    """The section ``model`` of a small GLM."""
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": 4,
        "max_position_embeddings": 100,
        "encoder_seq_length": LENGTH,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "transformer_engine": False,
        "precision": 32,
        "optim": OPTIM,
        **more,
    }


def built(
    tp: int = 1, pp: int = 1, dp: int = 1, method: str | None = None, **more: Any
) -> list[dict[str, Any]]:
    """Numbers of each stage's rank of a small student, with a teacher if there is a method."""
    terms = {"terms": {"x": {"method": method}}} if method else None
    model = section(4, distill=terms, global_batch_size=8, **more)
    teachers = {"t0": section(6, 96)} if method else {}
    layout = Layout(tp * pp * dp, 8, tp, pp, 1, 8)
    ranks = [build_rank(Request(model, teachers, VOCAB), layout, k) for k in range(pp)]
    kept = ("parameters", "weights", "gradients", "optimizer", "main_parameters")
    return [
        {name: getattr(rank, name) for name in kept}
        | {"teachers": rank.teacher_parameters, "layers": rank.config.split}
        | {"teacher_weights": rank.teacher_weights, "offloaded": rank.offloaded}
        | {"layer_buffers": rank.layer_buffers}
        for rank in ranks
    ]


def real_state(precision: Any) -> int:
    """Bytes of weights, gradients, main weights and Adam's states of a real student, one step."""
    config = glm_config_from_cfg(section(4, precision=precision), VOCAB)
    chunks = schedule.wrap_in_ddp([schedule.in_precision(GLMModel(config))], config, OPTIM.name)
    optimizer = build_optimizer(OPTIM, str(precision), chunks)
    step = partial(_plain_step, chunks[0])
    chunks[0].zero_grad_buffer()
    schedule.run(schedule.with_total(step), [batch()], chunks, False)
    optimizer.step()
    held = [x for b in chunks[0].buffers for x in (b.grad_data, b.param_data)]
    for part in getattr(optimizer.mcore, "chained_optimizers", [optimizer.mcore]):
        held += [p for group in part.optimizer.param_groups for p in group["params"]]
        states = part.optimizer.state.values()
        held += [x for state in states for name, x in state.items() if name != "step"]
    return sum(
        {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}.values()
    )


def _plain_step(model: Any, data_iterator: Any, _: Any) -> Any:
    one = next(data_iterator)
    ids = one["input_ids"], one["position_ids"], one["attention_mask"]
    return model(*ids, materialize=False), partial(token_mean, one)


def batch() -> dict[str, torch.Tensor]:
    """Random tokens, the second half to be predicted."""
    position = torch.arange(LENGTH).repeat(BATCH, 1)
    return {
        "input_ids": torch.randint(VOCAB, (BATCH, LENGTH)),
        "position_ids": torch.stack([position, position], 1),
        "attention_mask": torch.full((BATCH,), LENGTH // 2),
        "labels": torch.randint(1, VOCAB, (BATCH, LENGTH)),
        "loss_mask": (position >= LENGTH // 2).float(),
    }


def saved_by_layers(explicit: bool) -> tuple[int, int]:
    """Bytes that one more layer keeps for the backward: of a real one, and by the formula."""
    kept = []
    for layers in (1, 3):
        config = glm_config_from_cfg(section(layers), VOCAB)
        wanted = [("scores", i) for i in range(layers)] if explicit else []
        model = GLMModel(config, tapped_layers={i for _, i in wanted})
        kept.append(_saved_bytes(model, wanted))
    tokens = Tokens(BATCH, LENGTH, 4, on_cpu=True)
    return (kept[1] - kept[0]) // 2, kept_by_layer(config, tokens, explicit, recompute=False)


def _saved_bytes(model: GLMModel, wanted: list[Any]) -> int:
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes(), x  # held, so that no address comes back
        return x

    one = batch()
    ids = one["input_ids"], one["position_ids"], one["attention_mask"]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), record(wanted) as taps:
        output = model(*ids, materialize=False)
        for tap in taps.values():
            pack(tap.value)
    assert output is not None
    return sum(size for size, _ in saved.values())


class Live(TorchDispatchMode):
    """Counts bytes of tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, storage._cdata)
        return out

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)


def peak_per_logit(kind: str, dtype: torch.dtype) -> float:
    """Bytes per logit at the peak of a loss's forward and backward, logits included."""
    n, v, h = 64, 1000, 4
    hidden, head = torch.randn(n, h, dtype=dtype), torch.randn(v, h, dtype=dtype)
    hidden.requires_grad_()
    mask, labels = torch.ones(1, n, dtype=torch.bool), torch.randint(v, (n,))
    with Live() as live:
        student = hidden @ head.t()
        if kind == "hard":
            loss = losses.cross_entropy(student, labels).mean()
        else:
            teacher = hidden.detach() @ head.t()
            options = SoftLoss(loss=kind, temperature=10.0)
            loss = options.of_rows(student, teacher, mask, v).mean()
        loss.backward()
    return live.peak / (n * v)


def fused_head(kind: str) -> tuple[int, int]:
    """Peak bytes of a part's forward and backward in chunks, and the planner's estimate."""
    from glmkd_nemo.plan.losses import fused_head as planned

    n, v, h = 300, 30000, 8
    config = GLMConfig(vocab_size=v, num_layers=1, hidden_size=h, num_attention_heads=1)
    hidden, head = torch.randn(n, h, requires_grad=True), torch.randn(v, h, requires_grad=True)
    loss: Any = HardLabels() if kind == "hard" else SoftLoss(loss=kind, temperature=10.0)
    teacher = (None, None, torch.zeros(n, dtype=torch.long))
    if kind != "hard":
        teacher = (hidden.detach(), head.detach(), None)
    term = HeadTerm(loss, torch.ones(n), *teacher)
    with Live() as live:
        head_losses(hidden, head, [term], Workspace(rows_on_gpu(n)))[0].backward()
    return live.peak, planned([(kind, 1.0)], config, Tokens(1, n, 4))


def printed(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the planner."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(arguments))
    return code, out.getvalue()


SMALL = ("gpu=l40s-48g", "gpus_per_node=4", "global_batch_size=16", "model.num_layers=2")
COMMANDS: dict[str, tuple[str, ...]] = {
    "plan": ("model=tiny4", "teacher=tiny4", "method=kd", *SMALL, "pipeline_model_parallel_size=2"),
    "search": ("model=tiny4", *SMALL, "search=true", "top=3", "max_pipeline=2"),
    "too large": ("model=10b", "num_layers=8", "gpus_per_node=1", "gpu=rtx4090-24g", "search=true"),
    "recipe": ("recipe=tinybert", "stage=pretrain", "gpu=v100-32g"),
    "no stage": ("recipe=tinybert", "stage=pretran"),
    "which stage": ("recipe=tinybert",),
    "no number": ("model=tiny4", "micro_batch_size=x", "model.optim.lr=y"),
    "indivisible": ("model=tiny4", *SMALL, "tensor_model_parallel_size=3"),
    "no bf16": ("model=tiny4", *SMALL, "gpu=v100-32g"),
    "no method": ("model=tiny4", "teacher=base", *SMALL),
    "vocabularies": ("model=tiny4", "teacher=10b", "method=kd", *SMALL),
    "unknown teacher": ("model=tiny4", "teacher=bases", "method=kd", *SMALL),
}


def collect() -> dict[str, Any]:
    """All of the above."""
    found: dict[str, Any] = {"printed": {n: printed(*args) for n, args in COMMANDS.items()}}
    found["built"] = {
        "alone": built(),
        "tp2": built(tp=2),
        "pp2": built(pp=2),
        "dp4": built(dp=4, precision="bf16"),
        "adam": built(dp=4, optim=Section(OPTIM, name="adam")),
        "kd pp2": built(pp=2, method="kd"),
        "half teacher": built(method="kd", teachers={"t0": {"precision": "bf16"}}),
        "offloaded": built(method="kd", teachers={"t0": {"offload": True}}),
        "tinybert": built(method="tinybert"),
        "bf16": built(precision="bf16"),
    }
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    found["state"] = {precision: real_state(precision) for precision in (32, "bf16")}
    found["saved"] = {explicit: saved_by_layers(explicit) for explicit in (False, True)}
    found["logits"] = _of_kinds(peak_per_logit)
    found["fused"] = {kind: fused_head(kind) for kind in ("kl", "hard")}
    return found


def _of_kinds(function: Callable[[str, torch.dtype], float]) -> dict[str, tuple[float, float]]:
    from glmkd_nemo.plan.losses import PEAK_PER_LOGIT

    dtypes = torch.float32, torch.bfloat16
    return {kind: (function(kind, dtypes[0]), function(kind, dtypes[1])) for kind in PEAK_PER_LOGIT}
