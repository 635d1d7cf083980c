"""Shared by all tests: one thread, no network, no telemetry, so runs are quick and repeatable."""

import multiprocessing
import os
import socket
from typing import Any

# Before torch, transformers or NeMo are imported anywhere; child processes inherit it.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    WANDB_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
os.environ.setdefault("NEMO_LOG_LEVEL", "ERROR")

import pytest
import torch

from tests.launch import PRELOAD

multiprocessing.set_forkserver_preload(PRELOAD)  # of all that is started with `forkserver`

torch.set_num_threads(1)

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0", "::")


def _is_local(address: str) -> bool:
    """Whether `address` is this machine: a loopback name or one of its own interfaces (gloo)."""
    if address.startswith(_LOCAL) or address == socket.gethostname():
        return True
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # works for the machine's own addresses only
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails, here and not in somebody's offline build."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(str(address[0])):
            raise RuntimeError(f"a test tried to connect to {address[0]}: tests run offline")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
