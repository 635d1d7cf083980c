"""Stages of a long job that can be stopped at any moment and started again.

A finished stage leaves ``stages/<name>.done.json``, with the fingerprint of everything that decided
its outcome. The same command skips it; a changed setting, or a changed stage before it, runs it
anew. An unfinished stage keeps its folder, so that its training continues from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmkd_nemo.report.json_file import read_json, write_json

RECORDS = "stages"  # apart from the stages' folders, which NeMo tidies up when it resumes


@dataclass(frozen=True)
class Stage:
    """One step of a job.

    Attributes:
        name: folder name, unique in the job.
        spec: everything that decides the outcome, as plain JSON values.
        work: called with the stage's folder; returns plain JSON values, which are kept.
        after: names of the stages whose outcome this one reads.
    """

    name: str
    spec: dict[str, Any]
    work: Callable[[Path], dict[str, Any]]
    after: tuple[str, ...] = field(default=())


class StageRunner:
    """Runs stages in order under one folder, skipping those that are done.

    Args:
        root: folder of the job; one sub-folder per stage.
        announce: called with (name, skipped) before a stage starts or when it is skipped.
    """

    def __init__(self, root: Path, announce: Callable[[str, bool], None] | None = None) -> None:
        self.root = root
        self._announce = announce or (lambda name, skipped: None)
        self._fingerprints: dict[str, str] = {}

    def folder(self, name: str) -> Path:
        """Where stage `name` keeps its files."""
        return self.root / name

    def record(self, name: str, kind: str) -> Path:
        """Where it is noted that stage `name` is ``started`` or ``done``."""
        return self.root / RECORDS / f"{name}.{kind}.json"

    def run(self, stage: Stage) -> dict[str, Any]:
        """The outcome of `stage`: read from disk when it is done and nothing it depends on changed.

        Raises:
            ValueError: a stage named in ``after`` has not been run by this runner.
        """
        fingerprint = self._fingerprint(stage)
        self._fingerprints[stage.name] = fingerprint
        folder = self.folder(stage.name)
        done = _read(self.record(stage.name, "done"))
        if done is not None and done["fingerprint"] == fingerprint:
            self._announce(stage.name, True)
            return dict(done["outcome"])
        started = _read(self.record(stage.name, "started"))
        if folder.exists() and (started is None or started["fingerprint"] != fingerprint):
            shutil.rmtree(folder)  # of another configuration: its checkpoints must not be resumed
        folder.mkdir(parents=True, exist_ok=True)
        write_json(self.record(stage.name, "started"), {"fingerprint": fingerprint})
        self._announce(stage.name, False)
        outcome = stage.work(folder)
        whole = {"fingerprint": fingerprint, "spec": stage.spec, "outcome": outcome}
        write_json(self.record(stage.name, "done"), whole)
        return outcome

    def _fingerprint(self, stage: Stage) -> str:
        missing = [name for name in stage.after if name not in self._fingerprints]
        if missing:
            raise ValueError(f"stage {stage.name!r} needs {missing} to be run before it")
        before = [self._fingerprints[name] for name in stage.after]
        text = json.dumps([stage.name, stage.spec, before], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """The JSON at `path`; None where there is none or a crash left it half written."""
    content = read_json(path)
    return content if content is not None and "fingerprint" in content else None
