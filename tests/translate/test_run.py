"""``--run``: the commands one after the other, in the directory and environment of the caller."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.translate import main as script

TEXT = (
    "B=1 deepspeed --include=localhost:0,1 pretrain_glm.py --block-lm --train-data data/x "
    "--load-pretrained={folder} --train-iters=10"
)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What would have been started; programs named ``pretrain.py`` fail."""
    found: list[tuple[list[str], dict[str, str]]] = []

    def run(words: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        found.append((words, env))
        return subprocess.CompletedProcess(words, 3 if words[1].endswith("pretrain.py") else 0)

    monkeypatch.setattr("glmkd_nemo.translate.main.subprocess.run", run)
    return found


def test_conversions_come_first_and_a_failure_is_told(
    started: list[tuple[list[str], dict[str, str]]], tmp_path: Path
):
    assert script.main(["--run", TEXT.format(folder=tmp_path / "x")]) == 3
    assert [Path(words[1]).name for words, _ in started] == ["convert_checkpoint.py", "pretrain.py"]
    words, environment = started[1]
    assert f"restore_from_path={tmp_path}/x.nemo" in words
    assert (environment["B"], environment["CUDA_VISIBLE_DEVICES"]) == ("1", "0,1")


def test_what_is_converted_stays(started: list[tuple[list[str], dict[str, str]]], tmp_path: Path):
    (tmp_path / "x.nemo").touch()
    script.main(["--run", TEXT.format(folder=tmp_path / "x")])
    assert [Path(words[1]).name for words, _ in started] == ["pretrain.py"]
