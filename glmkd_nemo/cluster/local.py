"""Stages one after the other on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from glmkd_nemo.cluster.sbatch import tasks_per_node
from glmkd_nemo.cluster.settings import ROOT, LocalSettings
from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.plan import Stage


def command(stage: Stage, cluster: LocalSettings) -> list[str]:
    """What is run for a stage; torchrun starts the processes if there are several.

    Raises:
        ConfigError: the stage wants several nodes.
    """
    if stage.nodes > 1:
        raise ConfigError(
            f"stage {stage.name} wants {stage.nodes} nodes, cluster=local is one: use "
            "cluster=slurm, or set trainer.num_nodes=1 for it"
        )
    script = [str(ROOT / "scripts" / f"{stage.script}.py"), *stage.arguments]
    python = cluster.python or sys.executable
    if tasks_per_node(stage) == 1:
        return [python, *script]
    logs = ["--log-dir", str(stage.folder / "logs"), "--tee", "3"]
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={stage.devices}"]
    return [python, *start, *logs, *script]


def run(stage: Stage, cluster: LocalSettings) -> int:
    """Runs a stage that is not complete; its exit code.

    Ctrl-C goes to the stage too, which writes a checkpoint: its end is waited for.
    """
    environment = {**os.environ, **{name: str(value) for name, value in cluster.env.items()}}
    process = subprocess.Popen(command(stage, cluster), env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
