"""Starts the ranks of a replay and prints its table."""

from __future__ import annotations

import os
import socket
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.features import is_feature_file, replay_features
from glmkd_nemo.replay.flags import NotYet

STUCK = timedelta(minutes=5)
KINDS = ("logits", "loss", "component", "gradient")


def replay(
    paths: list[str],
    tp: int,
    pp: int,
    sp: bool,
    recompute: str | None,
    verbose: bool,
    vocab: str | None = None,
) -> int:
    """Replays cases (folders) on ``tp * pp`` gloo ranks started here, and feature files here.

    Returns:
        Exit code: 0 if every counted case is within 1e-5 and every feature file equal, else 1.
    """
    if sp and tp == 1:
        print("--sp needs --tp 2 or more")
        return 2
    files = [path for path in paths if is_feature_file(path)]
    folders = [path for path in paths if path not in files]
    failed = replay_features(files, vocab) if files else 0
    if files and not folders:
        return int(failed > 0)
    try:
        for folder in folders:
            Case(Path(folder)).record  # noqa: B018  (is it a case?)
    except ValueError as error:
        print(f"error: {error}")
        return 2
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        verdict = Path(scratch, "verdict")
        args = (folders, tp, pp, sp, recompute, verbose, port, str(verdict))
        if tp * pp == 1:
            _rank(0, *args)
        else:
            mp.spawn(_rank, args, nprocs=tp * pp)
        return max(int(verdict.read_text()), int(failed > 0))


def _rank(
    rank: int,
    folders: list[str],
    tp: int,
    pp: int,
    sp: bool,
    recompute: str | None,
    verbose: bool,
    port: int,
    verdict: str,
) -> None:
    from megatron.core import parallel_state, tensor_parallel

    if tp * pp > 1:
        torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=tp * pp, timeout=STUCK)
    parallel_state.initialize_model_parallel(tp, pp)
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    table = _Table(verbose and rank == 0, quiet=rank != 0)
    for folder in folders:
        _one(folder, sp, recompute, table)
    table.summary()
    if rank == 0:
        Path(verdict).write_text(str(int(table.failed > 0)))
    dist.destroy_process_group()


def _one(folder: str, sp: bool, recompute: str | None, table: _Table) -> None:
    from glmkd_nemo.distill.placement import LayoutRefused
    from glmkd_nemo.replay.compare import TOLERANCE, errors
    from glmkd_nemo.replay.run import run_case
    from glmkd_nemo.replay.truncation import COLLECTION, replay_truncation

    case = Case(Path(folder))
    if case.excluded is not None:
        table.note(case.name, f"excluded: {case.excluded}")
        return
    if case.folder.parent.name == COLLECTION:
        table.row(case.name, *replay_truncation(case, sp))
        return
    try:
        case.terms  # noqa: B018  (is it one that this version can run?)
    except NotYet as missing:
        table.note(case.name, f"waits: needs {missing}")
        return
    try:
        found = errors(case, run_case(case, sp, recompute=recompute))
    except LayoutRefused as refused:
        table.note(case.name, f"refused: {refused}")
        return
    remark = ""
    again = [max(e.value for e in found) > TOLERANCE]
    dist.broadcast_object_list(again, src=0)  # one decision: errors are complete on rank 0 only
    if again[0]:
        # badly conditioned in fp32? then the float64 run counts (golden README)
        single = max(e.value for e in found)
        found = errors(case, run_case(case, sp, torch.float64, recompute))
        remark = f"float64 (fp32: {single:.1e})"
    table.row(case.name, found, remark)


class _Table:
    """Prints a line per case and counts failures."""

    def __init__(self, verbose: bool, quiet: bool) -> None:
        self.failed = self.passed = self.noted = 0
        self._verbose, self._quiet = verbose, quiet
        self._print(f"{'case':58s}" + "".join(f"{kind:>11s}" for kind in KINDS))

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)

    def note(self, name: str, text: str) -> None:
        """A case that is not counted."""
        self.noted += 1
        self._print(f"{name:58s}  {text}")

    def row(self, name: str, found: list, remark: str) -> None:
        """A case that is: its worst error of each kind."""
        from glmkd_nemo.replay.compare import TOLERANCE, worst

        good = max(e.value for e in found) <= TOLERANCE
        self.passed += good
        self.failed += not good
        cells = "".join(f"{worst(found, kind):11.1e}" for kind in KINDS)
        self._print(f"{name:58s}{cells}  {'ok' if good else 'FAILED'} {remark}")
        for error in found if self._verbose else ():
            self._print(f"    {error.kind:10s} {error.name:60s} {error.value:.2e}")

    def summary(self) -> None:
        """Last line."""
        self._print(f"{self.passed} within 1e-5, {self.failed} not, {self.noted} not counted")
