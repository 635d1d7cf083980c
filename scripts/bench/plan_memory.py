"""The planner's estimate against the memory that real processes take, on this machine's CPU.

    python scripts/bench/plan_memory.py [--cases plain/TP1 kd/PP2 ...]

Student 6 x 256 and teacher 8 x 384, vocabulary 8,192, batch 4 (two micro-batches), sequence 256 (64
predicted), fp32, no dropout. Each case is built apart from the planner, as a training run builds
it, and takes two optimizer steps in processes of its own. Compared for the rank that needs most:

state    weights + gradients + optimizer + teachers, in bytes: these must be equal
growth   of the resident memory, from before the models to the peak, with the planner's estimate;
         a miniature of the case runs before, so that loading libraries does not count, and glibc
         gives freed tensors back at once
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from glmkd_nemo.distill.method import StepContext
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.placement import place_teacher
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.blank_filling import token_mean
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.plan.build import Request, build_rank
from glmkd_nemo.plan.hardware import Assumed
from glmkd_nemo.plan.layout import Layout
from glmkd_nemo.plan.memory import memory_of

MICRO, LENGTH, PREDICTED, VOCAB, STEPS = 2, 256, 64, 8192, 2
OPTIM = {"name": "mcore_distributed_optim", "lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.98]}
SIZES = {
    "student": {"num_layers": 6, "hidden_size": 256, "num_attention_heads": 8},
    "teacher": {"num_layers": 8, "hidden_size": 384, "num_attention_heads": 8},
}
TERMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kd": {"kd": {"method": "kd"}},
    "glmd": {"glmd": {"method": "glmd"}},
}
LAYOUTS = {"TP1": (1, 1), "TP2": (2, 1), "PP2": (1, 2), "DP2": (1, 1)}
CASES = (
    "plain/TP1",
    "plain/TP2",
    "plain/PP2",
    "plain/DP2",
    "kd/TP1",
    "kd/TP2",
    "kd/PP2",
    "glmd/TP1",
)
MIB = 2**20
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt: larger blocks are mapped, and unmapped when freed


class Section(dict):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__


def section(who: str, objective: str, layout: str, miniature: bool = False) -> dict[str, Any]:
    """The section ``model`` of a case."""
    tp, pp = LAYOUTS[layout]
    return {
        **SIZES[who],
        **({"hidden_size": 8, "num_layers": 2} if miniature else {}),
        "max_position_embeddings": 512,
        "encoder_seq_length": LENGTH,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "transformer_engine": False,
        "tensor_model_parallel_size": tp,
        "pipeline_model_parallel_size": pp,
        "micro_batch_size": MICRO,
        "global_batch_size": 2 * MICRO,
        "precision": 32,
        "optim": OPTIM,
        "distill": {"terms": TERMS[objective]},
    }


def micro_batch() -> dict[str, torch.Tensor]:
    """Random tokens."""
    position = torch.arange(LENGTH).repeat(MICRO, 1)
    context = LENGTH - PREDICTED
    block = (position - context + 1).clamp(min=0)
    return {
        "input_ids": torch.randint(VOCAB, (MICRO, LENGTH)),
        "position_ids": torch.stack([position.clamp(max=context - 1), block], 1),
        "attention_mask": torch.full((MICRO,), context),
        "labels": torch.randint(1, VOCAB, (MICRO, LENGTH)),
        "loss_mask": (position >= context).float(),
    }


def plain_step(data_iterator: Any, model: Any) -> Any:
    """The objective of pre-training."""
    batch = next(data_iterator)
    ids = batch["input_ids"], batch["position_ids"], batch["attention_mask"]
    return model(*ids, materialize=False), partial(token_mean, batch)


def train(objective: str, layout: str, miniature: bool = False) -> int:
    """Two steps on this rank; the bytes of its state."""
    first = parallel_state.is_pipeline_first_stage(ignore_virtual=True)
    last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
    config = glm_config_from_cfg(section("student", objective, layout, miniature), VOCAB)
    student = GLMModel(config, pre_process=first, post_process=last)
    distillation, teachers = None, {}
    if TERMS[objective]:
        cfg = section("teacher", objective, layout, miniature)
        shapes = {"t0": shape_of(glm_config_from_cfg(cfg, VOCAB))}
        terms = {n: term_from_dict(n, t, shapes) for n, t in TERMS[objective].items()}
        goal = Objective(terms, shape_of(config), shapes)
        split = place_teacher("t0", goal.possible_parts(), config.split, cfg["num_layers"])
        model = GLMModel(glm_config_from_cfg(cfg, VOCAB, split=split), first, last)
        teachers = {"t0": Teacher(model)}
        student.add_module("distill", goal)
        distillation = DistillationStep(config, goal, teachers)
    chunks = schedule.wrap_in_ddp([student], config, OPTIM["name"])
    optimizer = build_optimizer(Section(OPTIM), "32", chunks)
    config.grad_scale_func = optimizer.mcore.scale_loss
    data_parallel = parallel_state.get_data_parallel_world_size()
    batches = [micro_batch() for _ in range(2 // data_parallel)]
    for _ in range(STEPS):
        chunks[0].zero_grad_buffer()
        optimizer.zero_grad()
        if distillation is None:
            schedule.run(schedule.with_total(plain_step), batches, chunks, False)
        else:
            distillation.start(StepContext(), len(batches))
            schedule.run(distillation, batches, chunks, False)
            distillation.finish()
        optimizer.step()
    return state_bytes(chunks[0], optimizer, teachers)


def state_bytes(chunk: Any, optimizer: Any, teachers: dict[str, Teacher]) -> int:
    """Bytes of the storages that weights, gradients, Adam's states and teachers are in."""
    tensors = [x for b in chunk.buffers for x in (b.grad_data, b.param_data) if x is not None]
    tensors += [p for teacher in teachers.values() for p in teacher.model.parameters()]
    for part in getattr(optimizer.mcore, "chained_optimizers", [optimizer.mcore]):
        states = part.optimizer.state.values()
        tensors += [x for state in states for k, x in state.items() if k != "step"]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def rank_main(case: str, rank: int, world: int, folder: str, results: Any) -> None:
    """One process."""
    objective, layout = case.split("/")
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**16)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # of torch and Megatron-Core, about each other
    store = dist.FileStore(f"{folder}/{case.replace('/', '_')}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    parallel_state.initialize_model_parallel(*LAYOUTS[layout])
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    train(objective, layout, miniature=True)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    state = train(objective, layout)
    results.put((state, resident("VmHWM") - before))
    dist.barrier()


def measured(case: str) -> tuple[int, int]:
    """State and growth of the rank that needs most, in bytes.

    The processes are forked: all libraries are loaded already, and are in the growth of none.
    """
    world = 1 if case.endswith("TP1") else 2
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=rank_main, args=(case, rank, world, folder, results))
            for rank in range(world)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    if any(process.exitcode for process in ranks):
        raise SystemExit(f"{case}: a rank failed")
    found = [results.get() for _ in ranks]
    return max(state for state, _ in found), max(growth for _, growth in found)


def planned(case: str) -> tuple[int, int]:
    """The same, estimated."""
    objective, name = case.split("/")
    tp, pp = LAYOUTS[name]
    world = 1 if name == "TP1" else 2
    layout = Layout(world, world, tp, pp, MICRO, 2 * MICRO)
    model = section("student", objective, name)
    teachers = {"t0": section("teacher", objective, name)} if TERMS[objective] else {}
    request, assumed = Request(model, teachers, VOCAB), Assumed(predicted=PREDICTED / LENGTH)
    ranks = [build_rank(request, layout, stage) for stage in range(pp)]
    memory = [memory_of(rank, model, layout, assumed, on_cpu=True) for rank in ranks]
    return max(m.static for m in memory), max(m.peak for m in memory)


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    cases = parser.parse_args().cases
    print("case          state: planned        real   growth: planned  real MiB")
    for case in cases:
        state, growth = measured(case)
        estimate, peak = planned(case)
        equal = "" if state == estimate else "  STATE DIFFERS"
        sizes = f"{peak / MIB:18.1f}{growth / MIB:10.1f}  x {peak / growth:.2f}"
        print(f"{case:12s}{estimate:16,d}{state:12,d}{sizes}{equal}", flush=True)


if __name__ == "__main__":
    main()
