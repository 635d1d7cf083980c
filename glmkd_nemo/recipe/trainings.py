"""What stages at scale tiny import, and how they run: forked from one server, see `process`."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import nemo.core.config
import nemo.utils.exp_manager  # noqa: F401

import glmkd_nemo.engine.finetune
import glmkd_nemo.engine.train
import glmkd_nemo.models.distill_modelpt
import glmkd_nemo.models.task_modelpt  # noqa: F401


def script(path: Path, arguments: list[str], log: Path) -> int:
    """Runs a script as ``python path *arguments >>log 2>&1`` would; its exit code."""
    with log.open("a", encoding="utf-8") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    sys.argv = [str(path), *arguments]
    code: object = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)
