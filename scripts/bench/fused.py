"""The fused prediction head against logits that are multiplied out: memory, exactness, speed.

    python scripts/bench/fused.py memory [--plot memory.png]   peak memory against tokens
    python scripts/bench/fused_errors.py                       loss x TP 1, 2, 4 x sequence parallel
    python scripts/bench/fused.py speed [--threads 2]          forward and backward, both forms

``--json FILE`` writes the figures too. Memory is what a process of its own needs above its inputs
and the gradients of the weights, in units of one fp32 tensor of all tokens and columns: with as
many rows held as by default, with few (``--rows``, see ``model.fused_head_rows``), and multiplied
out. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
from torch import Tensor

from glmkd_nemo.distill.divergences import SoftLoss
from glmkd_nemo.distill.fused_kl import HeadTerm, Workspace, head_losses
from glmkd_nemo.distill.row_loss import HardLabels, RowLoss

LOSSES: dict[str, RowLoss] = {
    "kl": SoftLoss("kl", 10.0),
    "ce": SoftLoss("ce", 2.0),
    "mse": SoftLoss("mse"),
    "reverse_kl": SoftLoss("reverse_kl", 2.0),
    "jsd": SoftLoss("jsd", 2.0),
    "skewed_kl": SoftLoss("skewed_kl", 2.0),
    "hard": HardLabels(),
}
TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
MULTIPLIED_OUT_UP_TO = 4096


def one_process(threads: int) -> None:
    """Megatron-Core's parallel state of a single rank."""
    from megatron.core import parallel_state

    torch.set_num_threads(threads)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


def tensors(tokens: int, vocab: int, hidden: int, dtype: torch.dtype) -> list[Tensor]:
    """Hidden states and heads of student and teacher; logits of a few units."""
    g = torch.Generator().manual_seed(0)
    scale = 2.0 / hidden**0.5
    shapes = [(tokens, hidden), (vocab, hidden)] * 2
    x = [torch.randn(*shape, generator=g, dtype=torch.float32) for shape in shapes]
    x[1], x[3] = x[1] * scale, x[3] * scale
    return [y.to(dtype) for y in x]


def fused(loss: RowLoss, x: list[Tensor], labels: Tensor, space: Workspace) -> Tensor:
    """The mean over rows, in chunks."""
    weight = torch.full((len(x[0]),), 1 / len(x[0]), dtype=x[0].dtype)
    teacher = (None, None, labels) if isinstance(loss, HardLabels) else (x[2], x[3], None)
    return head_losses(x[0], x[1], [HeadTerm(loss, weight, *teacher)], space)[0]


def multiplied_out(loss: RowLoss, x: list[Tensor], labels: Tensor) -> Tensor:
    """The same with both logits in full."""
    s = x[0] @ x[1].T
    if isinstance(loss, HardLabels):
        return loss.rows(s, None, labels).mean()
    return loss.rows(s, x[2] @ x[3].T, None).mean()


# ---- memory -------------------------------------------------------------------------------------


def status(name: str) -> int:
    """Bytes, of this process."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def alone(form: str, tokens: int, vocab: int, hidden: int, held: int | None) -> None:
    """Prints what one forward and backward needs above inputs and gradients, in bytes."""
    one_process(1)
    for count in (8, tokens):  # the first time libraries take memory of their own
        x = [y.requires_grad_(i < 2) for i, y in enumerate(tensors(count, vocab, hidden, FP32))]
        labels = torch.zeros(count, dtype=torch.long)
        ctypes.CDLL(None).malloc_trim(0)  # what is free does not count
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        if form == "multiplied_out":
            multiplied_out(LOSSES["kl"], x, labels).backward()
        else:
            fused(LOSSES["kl"], x, labels, Workspace(held)).backward()
    gradients = sum(y.numel() * 4 for y in x[:2])
    print(status("VmHWM") - before - gradients)


FP32 = torch.float32


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peaks by tokens."""
    rows = []
    print(f"V {args.vocab}, h {args.hidden}, KL, fp32: bytes above inputs and gradients")
    print(f"{'tokens':>8s}" + "".join(f"{form:>17s} MB{'units':>8s}" for form in MEMORY_FORMS))
    for tokens in TOKENS:
        unit = tokens * args.vocab * 4
        found: dict[str, Any] = {"tokens": tokens}
        for form in MEMORY_FORMS:
            if form == "multiplied_out" and tokens > MULTIPLIED_OUT_UP_TO:
                continue
            sizes = [str(tokens), str(args.vocab), str(args.hidden)]
            command = [sys.executable, __file__, "alone", form, *sizes]
            command += ["--rows", str(args.rows or FEW)] if form == "few_rows" else []
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[form] = int(output.split()[-1])
        rows.append(found)
        cells = [(found[f] / 1e6, found[f] / unit) if f in found else None for f in MEMORY_FORMS]
        print(
            f"{tokens:8d}" + "".join("" if c is None else f"{c[0]:20.1f}{c[1]:8.3f}" for c in cells)
        )
    if args.plot:
        draw(rows, args)
    return {"vocab": args.vocab, "hidden": args.hidden, "few_rows": args.rows or FEW, "rows": rows}


FORMS = ("fused", "multiplied_out")
MEMORY_FORMS = ("fused", "few_rows", "multiplied_out")
FEW = 176  # 0.17 of 1,024


def draw(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Memory against tokens, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for form in MEMORY_FORMS:
        points = [(row["tokens"], row[form] / 1e6) for row in rows if form in row]
        axes.plot(*zip(*points, strict=True), marker="o", label=form.replace("_", " "))
    bound = [0.2 * row["tokens"] * args.vocab * 4 / 1e6 for row in rows]
    axes.plot([row["tokens"] for row in rows], bound, "--", color="grey", label="0.2 [tokens, V]")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="MB above inputs and gradients")
    axes.legend()
    figure.tight_layout()
    figure.savefig(args.plot, dpi=120)


# ---- speed --------------------------------------------------------------------------------------


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Forward and backward of both forms, in turn."""
    one_process(args.threads)
    rows = []
    print(
        f"{args.threads} threads, {args.tokens} tokens, h {args.hidden}: best of {args.repeat}, s"
    )
    for vocab in (30592, 50304):
        labels = torch.zeros(args.tokens, dtype=torch.long)
        x = [
            y.requires_grad_(i < 2)
            for i, y in enumerate(tensors(args.tokens, vocab, args.hidden, FP32))
        ]
        space = Workspace(args.rows)
        for name in args.losses:
            times: dict[str, list[float]] = {form: [] for form in FORMS}
            for _ in range(args.repeat + 1):
                for form in FORMS:
                    x[0].grad = x[1].grad = None
                    start = time.perf_counter()
                    if form == "fused":
                        fused(LOSSES[name], x, labels, space).backward()
                    else:
                        multiplied_out(LOSSES[name], x, labels).backward()
                    times[form].append(time.perf_counter() - start)
            best = {form: min(values[1:]) for form, values in times.items()}
            ratio = best["fused"] / best["multiplied_out"]
            rows.append({"vocab": vocab, "loss": name, **best})
            print(
                f"V {vocab} {name:12s} fused {best['fused']:.3f}  multiplied out "
                f"{best['multiplied_out']:.3f}  ratio {ratio:.2f}"
            )
    return {"threads": args.threads, "rows": rows}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "speed", "alone"])
    parser.add_argument("alone", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--vocab", type=int, default=30592)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rows", type=int, help="that chunk buffers hold")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.what == "alone":
        form, *sizes = args.alone
        tokens, vocab, hidden = map(int, sizes)
        alone(form, tokens, vocab, hidden, args.rows)
        return
    found = {"memory": memory, "speed": speed}[args.what](args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
