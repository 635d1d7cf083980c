"""Whether this node is fit for a stage; a file of its own, so that it runs wherever Python does.

Prints one line, ``fit: NODE ...`` or ``unfit: NODE: REASON``, and ends with code 0 or 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator

_SECONDS = 60  # a sick GPU makes nvidia-smi hang
_ECC = "ecc.errors.uncorrected.volatile.total"


def main(arguments: list[str]) -> int:
    """Checks this node; exit code 0 (fit) or 1."""
    parser = argparse.ArgumentParser(description="Checks this node: imports, disk, GPUs.")
    parser.add_argument("--folder", required=True, help="where the stage writes")
    parser.add_argument("--free-gb", type=float, default=0.0, help="space needed there")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs needed")
    parser.add_argument("--modules", nargs="*", default=[], help="that Python must import")
    args = parser.parse_args(arguments)
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    problems = [
        *module_problems(args.modules),
        *disk_problems(args.folder, args.free_gb),
        *gpu_problems(args.gpus),
    ]
    if problems:
        print(f"unfit: {name}: {'; '.join(problems)}", flush=True)
        return 1
    free = shutil.disk_usage(args.folder).free / 1e9
    print(f"fit: {name} ({free:.0f} GB free, {args.gpus} GPUs asked for)", flush=True)
    return 0


def module_problems(modules: list[str]) -> Iterator[str]:
    """Modules that cannot be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  (a broken library may raise anything)
            yield f"cannot import {module} ({type(error).__name__}: {error})"


def disk_problems(folder: str, free_gb: float) -> Iterator[str]:
    """A folder that cannot be written to, or has less than ``free_gb`` (10^9 bytes) left."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        yield f"cannot write to {folder} ({error.strerror or error})"
        return
    if free < free_gb:
        yield f"{folder} has {free:.1f} GB free, {free_gb:g} are needed"


def gpu_problems(needed: int) -> Iterator[str]:
    """Too few GPUs, or uncorrected memory errors since the node was started."""
    if needed < 1:
        return
    query = ["nvidia-smi", f"--query-gpu=index,{_ECC}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        yield "there is no nvidia-smi"
        return
    except subprocess.TimeoutExpired:
        yield f"nvidia-smi does not answer within {_SECONDS} s"
        return
    if answer.returncode:
        yield f"nvidia-smi: {(answer.stdout + answer.stderr).strip().splitlines()[-1:]}"
        return
    rows = [line.split(",") for line in answer.stdout.splitlines() if line.strip()]
    if len(rows) < needed:
        yield f"{len(rows)} GPUs are visible, {needed} are needed"
    for index, errors in rows:
        if errors.strip().isdigit() and int(errors) > 0:  # "[N/A]" where there is no ECC
            yield f"GPU {index.strip()} has {int(errors)} uncorrected memory errors"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
