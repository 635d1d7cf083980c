"""Processes of a run: nodes, GPUs on each, and those that the launcher was told to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from glmkd_nemo.translate.given import Given, naming, read_options
from glmkd_nemo.translate.launcher import Launcher
from glmkd_nemo.translate.tables import LAUNCHER, TORCH

UNKNOWN = (
    "the command does not say how many GPUs it takes: set trainer.devices and global_batch_size"
)
SEVERAL = "several nodes: start it on each by srun or torchrun, or by scripts/launch.py"
_SHORT = {"H": "hostfile", "i": "include", "e": "exclude"}


@dataclass(frozen=True)
class Layout:
    """How many processes there are.

    Attributes:
        devices: on each node.
        nodes: of the run.
        visible: numbers of the GPUs, where they are said.
        notes: what the user should know.
    """

    devices: int = 1
    nodes: int = 1
    visible: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def world(self) -> int:
        """All processes."""
        return self.devices * self.nodes


def layout_of(launcher: Launcher | None, environment: Mapping[str, str]) -> Layout:
    """The processes of a command.

    Args:
        launcher: what starts them; ``None``: one process.
        environment: ``CUDA_VISIBLE_DEVICES`` counts where the launcher is told nothing.

    Raises:
        ValueError: an unknown option of the launcher, or hosts with unlike numbers of GPUs.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if launcher is None:
        return Layout(visible=visible)
    given, _ = read_options(launcher.options, TORCH if launcher.torch else LAUNCHER)
    with naming(given):
        return _of_torch(given, visible) if launcher.torch else _of_deepspeed(given, visible)


def _of_torch(given: Given, visible: str | None) -> Layout:
    count, nodes = str(given.get("nproc_per_node", 1)), str(given.get("nnodes", 1))
    notes = given.notes("the launcher")
    if ":" in nodes:
        raise ValueError(f"--nnodes={nodes}: the number of nodes is fixed here: write one number")
    own = visible.split(",") if visible else []
    if not count.isdigit() and not own:  # auto, gpu
        notes.append(UNKNOWN)
    devices = int(count) if count not in ("auto", "gpu") else len(own) or 1
    return Layout(devices, int(nodes), visible, notes + [SEVERAL] * (int(nodes) > 1))


def _of_deepspeed(given: Given, visible: str | None) -> Layout:
    value = {_SHORT.get(name, name): given[name] for name in given}
    notes = given.notes("the launcher")
    hosts = _hosts(value.get("hostfile"))
    if value.get("include"):
        hosts = _included(value["include"], hosts)
    elif value.get("exclude"):
        hosts = _excluded(value["exclude"], hosts, visible)
    elif not hosts:
        count = value.get("num_gpus") or value.get("num_accelerators")
        nodes = int(value.get("num_nodes", 1))
        own = visible.split(",") if visible else []
        if count is None and not own:
            notes.append(UNKNOWN)
        devices = int(count) if count else len(own) or 1
        return Layout(devices, nodes, visible, notes + [SEVERAL] * (nodes > 1))
    else:
        hosts = _first(hosts, value)
    return _of_hosts(hosts, notes)


def _of_hosts(hosts: Mapping[str, list[str]], notes: list[str]) -> Layout:
    sizes = {len(slots) for slots in hosts.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"hosts with unlike numbers of GPUs ({dict(hosts)}) cannot be one run here"
        )
    slots = {",".join(found) for found in hosts.values()}
    visible = slots.pop() if len(slots) == 1 else None
    return Layout(sizes.pop(), len(hosts), visible, notes + [SEVERAL] * (len(hosts) > 1))


def _hosts(path: str | None) -> dict[str, list[str]]:
    """Of a hostfile (lines ``host slots=N``) that is here: the GPUs of each host."""
    if not path or not Path(path).is_file():
        return {}
    found = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if len(words) == 2 and words[1].startswith("slots="):
            found[words[0]] = [str(i) for i in range(int(words[1].removeprefix("slots=")))]
    return found


def _included(text: str, hosts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Of ``a:0,1@b:0,1``: the GPUs of each host."""
    found = {}
    for node in text.split("@"):
        host, _, slots = node.partition(":")
        chosen = [slot for slot in slots.split(",") if slot] or list(hosts.get(host, []))
        if not chosen:
            raise ValueError(f"--include={text}: say which GPUs of {host}, e.g. {host}:0,1")
        found[host] = chosen
    return found


def _excluded(
    text: str, hosts: Mapping[str, list[str]], visible: str | None
) -> dict[str, list[str]]:
    left = {h: list(slots) for h, slots in hosts.items()}
    if not left and visible:
        left = {"localhost": visible.split(",")}
    if not left:
        raise ValueError(f"--exclude={text}: the hostfile is not here; use --include instead")
    for node in text.split("@"):
        host, _, slots = node.partition(":")
        gone = slots.split(",") if slots else left.get(host, [])
        left[host] = [slot for slot in left.get(host, []) if slot not in gone]
    return {host: slots for host, slots in left.items() if slots}


def _first(hosts: Mapping[str, list[str]], value: Mapping[str, str]) -> dict[str, list[str]]:
    nodes = int(value.get("num_nodes", len(hosts)))
    count = value.get("num_gpus") or value.get("num_accelerators")
    chosen = list(hosts.items())[:nodes]
    return {host: slots[: int(count)] if count else slots for host, slots in chosen}
