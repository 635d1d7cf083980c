"""Settings of the launcher: strict, with the nearest known key."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.cluster.choice import chosen
from glmkd_nemo.cluster.settings import LocalSettings, SlurmSettings, load_settings


def test_the_shipped_clusters() -> None:
    slurm = load_settings(["recipe=kd", "cluster.time=12:00:00", "cluster.container.image=x.sqsh"])
    assert isinstance(slurm.cluster, SlurmSettings)
    assert (slurm.cluster.time, slurm.cluster.container.image) == ("12:00:00", "x.sqsh")
    local = load_settings(
        ["recipe=kd", "cluster=local", "scale=tiny", "stages.pretrain.model=base"]
    )
    assert isinstance(local.cluster, LocalSettings)
    assert local.changes == ["scale=tiny", "stages.pretrain.model=base"]


def test_a_cluster_file_of_ones_own(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("kind: slurm\naccount: me\nenv: {NCCL_DEBUG: WARN}\n")
    settings = load_settings(["recipe=kd", f"cluster={own}", "cluster.env.A=1"])
    assert settings.cluster.account == "me"
    assert settings.cluster.env == {"NCCL_DEBUG": "WARN", "A": 1}
    own.write_text("kind: slurm\ntime: 12:00:00\n")  # for YAML 43200
    with pytest.raises(ValueError, match=r"cluster.time=43200 is a number: quote it"):
        load_settings(["recipe=kd", f"cluster={own}"])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("dry_rum=true", "unknown key dry_rum; did you mean dry_run"),
        ("cluster.acount=x", "unknown key cluster.acount; did you mean account"),
        ("cluster.container.imag=x", "cluster.container.imag"),
        ("cluster.max_requeues=many", "max_requeues='many' is of the wrong type"),
        ("cluster.time=00:05:00", "cluster.time=00:05:00 is no longer than cluster.signal_seconds"),
        ("cluster.times.finetune=3", "cluster.times.finetune=3 is no longer than"),
        ("cluster.time=soon", "cluster.time=soon is no time: write 12:00:00"),
        ("cluster=slum", "cluster=slum is unknown; did you mean slurm"),
        ("cluster=there_is_none.yaml", "there_is_none.yaml"),
        ("export=airflow", "export=airflow is unknown"),
        ("recipe", "recipe is no key=value"),
        ("stages=[{name: a}]", "stages in full stand for a recipe"),
    ],
)
def test_mistakes_are_named(argument: str, words: str) -> None:
    with pytest.raises((ValueError, OSError), match=words.replace("[", r"\[")):
        load_settings(["recipe=kd", argument])


@pytest.mark.parametrize("time", ["0", "6", "5:01", "00:05:01", "1-0", "0-00:06", "1-00:00:00"])
def test_times_as_slurm_writes_them(time: str) -> None:
    assert load_settings(["recipe=kd", f"cluster.time={time}"]).cluster.time == time


def test_nothing_to_launch() -> None:
    with pytest.raises(ValueError, match="write recipe=NAME"):
        load_settings([])


def test_stages_of_a_recipe(place: Path) -> None:
    def launched(*arguments: str) -> list[str]:
        settings = load_settings(["recipe=tiny.yaml", *arguments])
        return [stage.name for stage in chosen(settings).recipe.stages]

    assert launched() == ["pretrain", "second"]
    assert launched("stages=[second]") == ["second"]
    with pytest.raises(ValueError, match="has no secnd; did you mean second"):
        launched("stages=[secnd]")


def test_stages_in_full(tmp_path: Path) -> None:
    first = "{name: a, script: tune, arguments: [x=1], result: tune.json}"
    second = "{name: b, needs: [a], result: b.nemo, nodes: 2, devices: 8}"
    out = f"out={tmp_path}"
    recipe = chosen(load_settings([f"stages=[{first},{second}]", out])).recipe
    assert [stage.result for stage in recipe.stages] == [
        tmp_path / "a" / "tune.json",
        tmp_path / "b" / "b.nemo",
    ]
    assert (recipe.stages[1].nodes, recipe.stages[1].devices) == (2, 8)
    assert recipe.stages[1].arguments == ("trainer.num_nodes=2", "trainer.devices=8")
    for wrong, words in {
        f"[{second}]": "stage b needs a",
        "[{name: a, scrip: x}]": "unknown key scrip; did you mean script",
        "[{name: a}]": "name and result",
    }.items():
        with pytest.raises(ValueError, match=words):
            chosen(load_settings([f"stages={wrong}", out]))
