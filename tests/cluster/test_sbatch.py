"""Job scripts: the text, whether bash can read all of them, and the ones written by hand."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from glmkd_nemo.cluster.body import BODY
from glmkd_nemo.cluster.resolve import compose
from glmkd_nemo.cluster.sbatch import job_script, mounts, time_limit
from glmkd_nemo.cluster.settings import ContainerSettings, SlurmSettings
from glmkd_nemo.engine.layout import check_layout
from glmkd_nemo.recipe.plan import Stage

ROOT = Path(__file__).resolve().parents[2]
BY_HAND = sorted((ROOT / "scripts" / "slurm").glob("*.sbatch"))
GOLDEN = Path(__file__).with_name("job.sbatch")
CLUSTER = SlurmSettings(
    account="me",
    partition="gpu",
    qos="long",
    time="12:00:00",
    gres="gpu:{devices}",
    cpus_per_task=12,
    options={"mail-type": "END"},
    max_requeues=5,
    modules=["torch", "nemo.core"],
    free_gb=50,
    container=ContainerSettings("a.sqsh", ["/data:/data", "/repo"], ["--no-container-entrypoint"]),
    repository="/repo",
    env={"NCCL_DEBUG": "WARN"},
    setup=["module load cuda"],
)


def bash_reads(path: Path) -> bool:
    return subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


def test_the_whole_text(stage: Stage, tmp_path: Path) -> None:
    text = job_script("kd", stage, CLUSTER, Path("/data"))
    written = tmp_path / "job.sbatch"
    written.write_text(text)
    assert bash_reads(written)
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_a_script_that_starts_its_own_processes_is_one_task(stage: Stage) -> None:
    tune = dataclasses.replace(stage, script="tune")
    text = job_script("kd", tune, CLUSTER, Path("/data"))
    assert "--ntasks-per-node=1\n" in text
    assert "--gres=gpu:8\n" in text
    assert "env --unset=SLURM_NTASKS" in text  # else Lightning would take it for one of several


def test_without_container_gpus_and_checks(stage: Stage) -> None:
    bare = SlurmSettings(check_nodes=False, exclusive=False, times={"pretrain": "00:10:00"})
    text = job_script("kd", stage, bare, Path("/data"))
    assert "container=()\ncheck=()\n" in text
    assert "gres" not in text.split("====")[0]
    assert "#SBATCH --time=00:10:00\n" in text


def test_a_container_starts_in_the_folder_of_the_launch(stage: Stage) -> None:
    """Relative paths of a stage are below it; pyxis would start in the image's own."""
    text = job_script("kd", stage, CLUSTER, Path("/work/me"))
    container = (
        "--container-mounts=/data:/data,/repo,/work/me:/work/me --container-workdir=/work/me"
    )
    assert container in text
    for given in ("/work", "/other:/work/me", "/work:/work:ro"):
        there = SlurmSettings(container=ContainerSettings("a.sqsh", [given]))
        assert mounts(there, Path("/work/me")) == [given]
    elsewhere = SlurmSettings(container=ContainerSettings("a.sqsh", ["/work:/in", "/wor"]))
    assert mounts(elsewhere, Path("/work/me"))[2:] == ["/work/me:/work/me"]


def test_options_are_quoted_as_sbatch_reads_them(stage: Stage) -> None:
    spaced = dataclasses.replace(stage, folder=Path("/my out/50%/a"))
    cluster = SlurmSettings(options={"comment": 'a "b" \\ $c', "nice": True})
    text = job_script("kd", spaced, cluster, Path("/my out"))
    assert '#SBATCH --chdir="/my out"\n' in text
    assert '#SBATCH --output="/my out/50%%/a/logs/%x-%j.log"\n' in text
    assert '#SBATCH --comment="a \\"b\\" \\\\ $c"\n#SBATCH --nice\n' in text
    with pytest.raises(ValueError, match="no line break"):
        job_script("kd", stage, SlurmSettings(options={"comment": "a\nb"}), Path("/data"))


def test_a_time_is_that_of_the_stage_or_of_what_is_before_its_task(stage: Stage) -> None:
    cluster = SlurmSettings(time="9", times={"tune": "1", "tune_large": "2", "tune_large_wsc": "3"})
    for name, time in {
        "tune": "1",
        "tune_copa": "1",
        "tune_large_rte": "2",
        "tune_large_wsc": "3",
        "tuned": "9",
    }.items():
        assert time_limit(dataclasses.replace(stage, name=name), cluster) == time


def test_there_are_recipes_by_hand_for_one_to_sixteen_nodes() -> None:
    nodes = {int(path.name.split("_")[0]) for path in BY_HAND}
    assert nodes >= {1, 2, 4, 16}
    assert any("10b_to_2b" in path.name for path in BY_HAND)


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.stem)
def test_recipes_by_hand(path: Path) -> None:
    """They end as written ones do, and their commands are configurations that can be."""
    text = path.read_text(encoding="utf-8")
    assert bash_reads(path)
    assert text.endswith(BODY)
    assert '--container-workdir="$repository"' in text
    top = text.removesuffix(BODY) + '\nprintf "%s\\n" "${command[@]}"\n'
    shell = subprocess.run(
        ["bash", "-c", top], capture_output=True, text=True, env={"SLURM_SUBMIT_DIR": "/repo"}
    )
    python, script, *arguments = shell.stdout.splitlines()
    assert (python, script) == ("python", "/repo/scripts/pretrain.py")
    cfg = compose("pretrain", arguments)
    nodes, devices = cfg["trainer"]["num_nodes"], cfg["trainer"]["devices"]
    assert int(path.name.split("_")[0]) == nodes
    assert f"--nodes={nodes}\n#SBATCH --ntasks-per-node={devices}\n" in text
    check_layout(cfg["model"], nodes * devices)
