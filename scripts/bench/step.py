"""Time of a distillation step against its floor, both measured in one sitting.

    python scripts/bench/step.py [--threads 2] [--repeat 5] [--methods kd glmd tinybert]

Size: teacher 12 x 256 (8 heads), student 6 x 256, vocabulary 30,592, batch 4, sequence 256 (220 of
context), fp32, no dropout, one AdamW step. Two floors, each a student step plus a teacher forward:

own     what this engine needs without distilling: the hard-label step (its head on the positions to
        be predicted only), and the teacher up to its final hidden states
plain   the same with the logits of all positions multiplied out, as a plain implementation has it

Prints median seconds, ratios and the peak RSS of a process of its own; asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch

from glmkd_nemo.distill.method import Batch, StepContext
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher, shape_of
from glmkd_nemo.engine import schedule
from glmkd_nemo.engine.optimizer import build_optimizer
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

BATCH, SEQUENCE, CONTEXT, VOCAB, HIDDEN, HEADS = 4, 256, 220, 30592, 256, 8
OBJECTIVES: dict[str, dict[str, dict]] = {
    "hard": {"hard": {"method": "hard"}},
    "kd": {"kd": {"method": "kd"}},
    "kd+hard": {"kd": {"method": "kd"}, "hard": {"method": "hard"}},
    "glmd": {"glmd": {"method": "glmd"}},
    "tinybert": {"tinybert": {"method": "tinybert"}},
}


def model(layers: int) -> GLMModel:
    """A GLM of the benchmark's size."""
    sizes = {
        "num_layers": layers,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 512,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    return GLMModel(glm_config_from_cfg(sizes, VOCAB))


def batch() -> dict[str, torch.Tensor]:
    """Random tokens; 36 positions to be predicted in each sample."""
    position = torch.arange(SEQUENCE).repeat(BATCH, 1)
    block = (position - CONTEXT + 1).clamp(min=0)
    return {
        "input_ids": torch.randint(VOCAB, (BATCH, SEQUENCE)),
        "position_ids": torch.stack([position.clamp(max=CONTEXT - 1), block], 1),
        "attention_mask": torch.full((BATCH,), CONTEXT),
        "labels": torch.randint(1, VOCAB, (BATCH, SEQUENCE)),
        "loss_mask": (position >= CONTEXT).float(),
    }


def training_step(terms: dict[str, dict], all_logits: bool = False) -> Callable[[], None]:
    """One step of student, teachers (if a term needs one) and optimizer."""
    student = model(6)
    needs = any(term["method"] != "hard" for term in terms.values())
    teachers = {"t0": Teacher(model(12))} if needs else {}
    objective = Objective(
        {n: term_from_dict(n, t, teachers) for n, t in terms.items()},
        shape_of(student.config),
        {n: shape_of(t.config) for n, t in teachers.items()},
    )
    student.add_module("distill", objective)
    chunks = schedule.wrap_in_ddp([student], student.config, "adam")
    optim = {"name": "adam", "lr": 1e-4, "weight_decay": 0.01, "betas": [0.9, 0.999]}
    optimizer = build_optimizer(_Section(optim), "32", chunks)
    step = DistillationStep(student.config, objective, teachers)
    data = batch()

    def everywhere(data_iterator, module):  # type: ignore[no-untyped-def]
        row = next(data_iterator)
        loss = module(row["input_ids"], row["position_ids"], row["attention_mask"], row["labels"])
        return (loss * row["loss_mask"]).sum() / row["loss_mask"].sum(), lambda x: (x, {})

    def run() -> None:
        chunks[0].zero_grad_buffer()
        optimizer.zero_grad()
        step.start(StepContext(), 1)
        schedule.run(everywhere if all_logits else step, [data], chunks, False)
        optimizer.step()

    return run


class _Section(dict):
    """A dict with attributes, as OmegaConf's."""

    __getattr__ = dict.__getitem__


def teacher_forward(all_logits: bool) -> Callable[[], None]:
    """A forward of the teacher alone."""
    teacher, data = Teacher(model(12)), Batch(**batch())

    def run() -> None:
        output, _ = teacher.forward(data, (), None)
        if all_logits:
            with torch.no_grad():
                output.all()

    return run


def seconds(run: Callable[[], None], repeat: int) -> float:
    """Median of ``repeat`` runs after one to warm up."""
    run()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measured(what: str) -> Callable[[], None]:
    """What a name in the table runs."""
    name, _, variant = what.partition("/")
    if name == "teacher":
        return teacher_forward(variant == "plain")
    return training_step(OBJECTIVES[name], variant == "plain")


def start_engine(threads: int) -> None:
    """One process, as many threads as asked for."""
    from megatron.core import parallel_state, tensor_parallel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)


def peak_rss(what: str, threads: int) -> float:
    """Gigabytes that a process needs that runs ``what`` twice and nothing else."""
    command = [sys.executable, __file__, "--alone", what, "--threads", str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=[n for n in OBJECTIVES if n != "hard"])
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    start_engine(args.threads)
    if args.alone:
        seconds(measured(args.alone), 1)
        # not getrusage: its peak outlives exec and would be the parent's
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)
        return
    names = ["hard", "teacher", "hard/plain", "teacher/plain", *args.methods]
    runs = {name: measured(name) for name in names}
    # one round of all after another, so that a slow minute of the machine hits them alike
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.repeat):
        for name in names:
            times[name].append(seconds(runs[name], 1))
    median = {name: statistics.median(values) for name, values in times.items()}
    own, plain = median["hard"] + median["teacher"], median["hard/plain"] + median["teacher/plain"]
    print(f"{args.threads} threads, median of {args.repeat} rounds, seconds")
    print(f"{'run':15s}{'seconds':>9s}{'/ own':>8s}{'/ plain':>9s}{'peak RSS':>10s}")
    for name in names:
        ratios = f"{median[name] / own:8.2f}{median[name] / plain:9.2f}"
        print(f"{name:15s}{median[name]:9.3f}{ratios}{peak_rss(name, args.threads):7.2f} GB")
    print(f"floors: own {own:.3f} s, plain {plain:.3f} s")


if __name__ == "__main__":
    main()
