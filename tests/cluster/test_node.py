"""The check of a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.cluster import node


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_fit_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert node.main(["--folder", str(tmp_path / "new"), "--modules", "json"]) == 0
    assert capsys.readouterr().out.startswith("fit: ")


def test_all_that_is_wrong_stands_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "gpu7")
    wanted = ["--folder", str(tmp_path), "--free-gb", "1e9", "--modules", "no_such_module"]
    assert node.main(wanted) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("unfit: gpu7: cannot import no_such_module")
    assert "GB free, 1e+09 are needed" in line


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = node.disk_problems(str(tmp_path / "file" / "below"), 0)
    assert "cannot write to" in problem


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("printf '0, 0\\n1, [N/A]\\n'", None),
        ("printf '0, 0\\n1, 3\\n'", "GPU 1 has 3 uncorrected"),
        ("printf '0, 0\\n'", "1 GPUs are visible, 2 are needed"),
        ("echo no driver; exit 9", "no driver"),
    ],
)
def test_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str | None
) -> None:
    nvidia_smi(tmp_path, monkeypatch, script)
    problems = "; ".join(node.gpu_problems(2))
    assert words in problems if words else problems == ""


def test_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(node.gpu_problems(1)) == ["there is no nvidia-smi"]
    assert not list(node.gpu_problems(0))
