"""Megatron-Core on the CPU: what is patched, and that CUDA machines are left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glmkd_nemo.engine import cpu

ROOT = Path(__file__).resolve().parents[2]
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)


def test_nothing_is_touched_where_cuda_is():
    result = python(
        "import torch\n"
        "torch.cuda.is_available = lambda: True\n"
        "def state():\n"
        "    names = ['tensor', 'zeros', 'empty', 'full', 'arange']\n"
        "    ids = [id(getattr(torch, n)) for n in names]\n"
        "    ids += [id(v) for v in vars(torch.cuda).values() if callable(v)]\n"
        "    ids += [id(torch.Tensor.cuda), id(torch.Tensor.to), id(torch.Tensor.type)]\n"
        "    return ids + [id(torch.cuda.nvtx.range_push), id(torch.cuda.random.manual_seed)]\n"
        "before = state()\n"
        "import glmkd_nemo\n"
        "from glmkd_nemo.engine import cpu\n"
        "assert cpu.install() is False\n"
        "assert state() == before\n"
        "print('untouched')\n"
    )
    assert result.stdout.strip() == "untouched", result.stderr


def test_a_start_prints_nothing():
    result = python(
        "import glmkd_nemo\n"
        "import megatron.core, nemo.core, nemo.utils.exp_manager\n"
        "import glmkd_nemo.models.modelpt, glmkd_nemo.engine.train\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@on_cpu
def test_cuda_devices_mean_the_cpu():
    assert cpu.install() is True
    x = torch.zeros(3, device="cuda")
    assert x.device.type == "cpu"
    assert torch.tensor([1.0], device=torch.device("cuda", 0)).device.type == "cpu"
    assert x.cuda() is x
    assert x.to("cuda").device.type == "cpu"
    assert x.to("cuda", torch.float16).dtype == torch.float16
    assert x.to(torch.bfloat16).dtype == torch.bfloat16
    assert torch.cuda.current_device() == torch.device("cpu")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
    torch.cuda.nvtx.range_push("x")
    torch.cuda.nvtx.range_pop()


@on_cpu
def test_only_megatron_is_told_the_cuda_type():
    x = torch.zeros(1)
    assert x.type() == "torch.FloatTensor"
    scope = {"__name__": "megatron.core.optimizer", "x": x}
    answer = eval_in(scope)
    assert answer == "torch.cuda.FloatTensor"
    assert x.type(torch.float64).dtype == torch.float64


def eval_in(scope: dict) -> str:
    """Calls ``x.type()`` from a function of another module."""
    function = type(eval_in)((lambda: x.type()).__code__, scope)  # noqa: F821
    return function()


@on_cpu
def test_cuda_random_states_are_the_cpus():
    torch.cuda.manual_seed(5)
    first = torch.rand(3)
    state = torch.cuda.get_rng_state()
    second = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), second)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)


@on_cpu
def test_patched_factories_still_script():
    @torch.jit.script
    def two(n: int):
        return torch.zeros(n) + torch.ones(n)

    assert two(2).tolist() == [1.0, 1.0]
