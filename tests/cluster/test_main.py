"""scripts/launch.py: dry run, chain, what is done or queued before, local runs, export."""

from __future__ import annotations

import functools
import importlib.util
import os
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glmkd_nemo.cluster import resolve
from glmkd_nemo.cluster.main import main

SBATCH = """\
#!/bin/bash
echo "$*" >>"{place}/sbatch"
echo $((100 + $(wc -l <"{place}/sbatch")))
"""
PYTHON = """\
#!/bin/bash
echo "$*" >>"{place}/run"
for argument; do
  [[ $argument == exp_manager.explicit_log_dir=* ]] && folder=${{argument#*=}}
done
[ -e fail ] && exit 3
touch "$folder/$(basename "$folder").nemo"
"""


@functools.cache
def composed(script: str, arguments: tuple[str, ...]) -> Any:
    """Composing takes half a second: once for all tests."""
    return resolve_compose(script, arguments)


resolve_compose = resolve.compose


@pytest.fixture(autouse=True)
def compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that were composed before are remembered."""
    monkeypatch.setattr(resolve, "compose", composed)


def stand_in(place: Path, name: str, text: str) -> Path:
    path = place / name
    path.write_text(text.format(place=place))
    path.chmod(0o755)
    return path


@pytest.fixture
def slurm(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, in the path stand-ins for sbatch and squeue."""
    binaries = place / "bin"
    binaries.mkdir()
    stand_in(binaries, "sbatch", SBATCH.replace("{place}", str(place)))
    stand_in(binaries, "squeue", "#!/bin/sh\ncat queued 2>/dev/null\n")
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    return place


def launch(*arguments: str) -> int:
    return main(["recipe=tiny.yaml", "out=out", *arguments])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_dry_run_writes_all_and_submits_nothing(
    slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch("dry_run=true") == 0
    said = capsys.readouterr().out
    assert "pretrain (2 nodes x 4): written" in said
    assert "--dependency=afterok:JOB_pretrain --kill-on-invalid-dep=yes" in said
    assert not lines(slurm / "sbatch")
    job = (slurm / "out" / "pretrain" / "launch" / "job.sbatch").read_text()
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --gres=gpu:4\n" in job
    config = OmegaConf.load(slurm / "out" / "pretrain" / "launch" / "config.yaml")
    assert config.model.tokenizer.path == "it's here"
    assert config.exp_manager.name == "pretrain"  # resolved


def test_jobs_wait_for_those_before(slurm: Path) -> None:
    assert launch() == 0
    first, second = lines(slurm / "sbatch")
    assert "dependency" not in first
    assert "--dependency=afterok:101 " in second


def test_what_is_complete_or_queued_is_not_submitted_again(slurm: Path) -> None:
    assert launch() == 0
    (slurm / "queued").write_text("PENDING\n")
    assert launch() == 0
    assert len(lines(slurm / "sbatch")) == 2
    (slurm / "queued").unlink()
    (slurm / "out" / "pretrain" / "pretrain.nemo").touch()
    assert launch() == 0
    _, _, third = lines(slurm / "sbatch")
    assert "dependency" not in third
    assert "out/second/launch" in third


def test_a_need_that_is_not_launched_must_be_complete_or_queued(
    slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "stage second needs pretrain, which is neither complete nor queued: add it to stages="
    for where in ("cluster=slurm", "cluster=local", "export=nemo_run"):
        assert launch("stages=[second]", where) == 2
        assert words in capsys.readouterr().err
    assert launch("stages=[second]", "dry_run=true") == 0
    assert "--dependency=afterok:JOB_pretrain" in capsys.readouterr().out
    assert launch("stages=[pretrain]") == 0
    (slurm / "queued").write_text("PENDING\n")
    assert launch("stages=[second]") == 0
    assert "--dependency=afterok:101 " in lines(slurm / "sbatch")[1]


def test_a_stage_goes_on_with_the_settings_that_it_was_begun_with(
    slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "stages.pretrain.model.hidden_size=128"
    assert launch("stages=[pretrain]", other, "dry_run=true") == 0
    assert launch("stages=[pretrain]") == 0  # nothing was begun
    assert launch(other) == 2
    said = capsys.readouterr().err
    assert "model.hidden_size=" in said
    assert "and is asked for with model.hidden_size=128: choose another out=" in said
    fewer = "stages.pretrain.trainer.devices=2"
    job = slurm / "out" / "pretrain" / "launch" / "job.sbatch"
    (slurm / "queued").write_text("PENDING\n")
    assert launch("stages=[pretrain]", fewer) == 0
    assert "--ntasks-per-node=4\n" in job.read_text()  # the one that is queued
    (slurm / "queued").unlink()
    assert launch("stages=[pretrain]", fewer) == 0
    assert "--ntasks-per-node=2\n" in job.read_text()


def test_errors_are_one_message(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument, words in {
        "stages.second.model.hiden_size=8": "unknown key model.hiden_size; did you mean",
        "stages.second.script=none": "error: stage second: there is no scripts/none.py",
        "cluster.times.secund=1:00:00": "cluster.times.secund: there is no such stage; did you",
        "cluster=local": "error: stage pretrain wants 2 nodes, cluster=local is one",
    }.items():
        assert launch(argument) == 2
        assert words in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert launch() == 2
    assert "error: sbatch is not on this machine" in capsys.readouterr().err


def test_local_stages_run_in_order_and_go_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = stand_in(place, "python", PYTHON)
    own = ("cluster=local", f"cluster.python={python}", "stages.pretrain.trainer.num_nodes=1")
    (place / "fail").touch()
    assert launch(*own) == 3
    assert "the same command goes on" in capsys.readouterr().err
    (place / "fail").unlink()
    assert launch(*own) == 0
    assert launch(*own) == 0
    first, again, second = lines(place / "run")
    assert first == again
    assert first.startswith("-m torch.distributed.run --standalone --nproc-per-node=4 ")
    assert second.split()[0].endswith("scripts/pretrain.py")
    assert "complete before" in capsys.readouterr().out


class FakeExperiment:
    """Of NeMo-Run: remembers what was added."""

    added: tuple[dict[str, Any], ...] = ()
    ran = False

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> FakeExperiment:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def add(self, task: Any, **given: Any) -> str:
        """An id, as NeMo-Run's."""
        type(self).added += ({"task": task, **given},)
        return f"id_{given['name']}"

    def run(self, detach: bool) -> None:
        """Remembers."""
        type(self).ran = detach


def test_nemo_run_export(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch("export=nemo_run", "cluster.container.image=x.sqsh", "cluster.env.A=1") == 0
    path = place / "out" / "tiny_nemo_run.py"
    names = ("Script", "SlurmExecutor", "Packager", "LocalTunnel")
    fake: Any = types.SimpleNamespace(Experiment=FakeExperiment)
    for name in names:
        setattr(fake, name, lambda **given: given)
    monkeypatch.setitem(sys.modules, "nemo_run", fake)
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    first, second = FakeExperiment.added
    assert first["executor"]["nodes"] == 2
    assert first["executor"]["ntasks_per_node"] == 4
    assert first["executor"]["env_vars"] == {"A": "1"}
    assert (first["task"]["entrypoint"], first["task"]["path"]) == ("env", f"--chdir={place}")
    assert first["task"]["args"][1].endswith("scripts/pretrain.py")
    assert first["executor"]["container_mounts"] == [f"{place}:{place}"]
    arguments = shlex.split(" ".join(first["task"]["args"]))  # as the shell of the job reads them
    assert any(word.startswith("model.tokenizer.path=") for word in arguments)
    assert "it's here" in " ".join(arguments).replace("\\", "")
    assert second["dependencies"] == ["id_pretrain"]
    assert FakeExperiment.ran
