"""From settings to stages: chains, tasks, changes, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.recipe.plan import Recipe, load_recipe

TEXT = """
tasks: [rte, copa]
data: {corpus: [text], tokenizer: vocab.txt, tasks: superglue}
variables: {all: {of: classes}, copa: {of: 2}}
scripts: {finetune: {epochs: 5}}
per_task: {copa: {epochs: 7}}
tiny:
  scripts: {finetune: {epochs: 1}}
  models: {tiny4: {num_layers: 1}}
  data: {corpus: ["{folder:data}/train"], tokenizer: t, tasks: s}
stages:
  data: {script: make_tiny_data, only: tiny, overrides: ["{folder}", "{out}"], result: "{folder}/x"}
  last:
    script: finetune
    student: student
    teacher: teacher_ft
    per_task: {rte: {model.optim.lr: 0.5}}
    overrides: {model.distill.terms.kd.of: "{of}"}
  teacher: {given: base.nemo}
  teacher_ft: {script: finetune, student: teacher}
  student:
    teacher: teacher
    overrides: {model: {optim: {lr: 0.1}}, model.data.prefixes: "{corpus}"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def load(file: Path, *changes: str) -> Recipe:
    return load_recipe(str(file), ["out=o", *changes])


def test_stages_come_after_what_they_need(file: Path) -> None:
    recipe = load(file)
    assert recipe.name == "mine"
    order = ["student", "teacher_ft_rte", "last_rte", "teacher_ft_copa", "last_copa"]
    assert [stage.name for stage in recipe.stages] == order
    stages = {stage.name: stage for stage in recipe.stages}
    assert stages["last_rte"].needs == ("student", "teacher_ft_rte")
    assert stages["student"].arguments == (
        "name=student",
        "model.teachers.t0.restore_from_path=base.nemo",
        "model.optim.lr=0.1",
        "model.data.prefixes=[text]",
        "exp_manager.explicit_log_dir=o/student",
    )
    assert stages["last_rte"].arguments == (
        "name=last_rte",
        "task=rte",
        "restore_from_path=o/student/student.nemo",
        "model.teachers.t0.restore_from_path=o/teacher_ft_rte/best.nemo",
        "epochs=5",
        "model.distill.terms.kd.of=classes",
        "model.optim.lr=0.5",
        "exp_manager.explicit_log_dir=o/last_rte",
    )
    assert {"epochs=7", "model.distill.terms.kd.of=2"} <= set(stages["last_copa"].arguments)
    assert stages["last_rte"].result == Path("o/last_rte/results.json")
    assert recipe.inputs == (("stages.teacher.given", "base.nemo"), ("data.corpus", "text"))


def test_one_task_needs_no_brackets_and_last_weights_are_named(file: Path) -> None:
    recipe = load(file, "tasks=rte", "stages.teacher_ft.gives=last")
    stages = {stage.name: stage.arguments for stage in recipe.stages}
    assert list(stages) == ["student", "teacher_ft_rte", "last_rte"]
    assert "gives=last" in stages["teacher_ft_rte"]
    last = "model.teachers.t0.restore_from_path=o/teacher_ft_rte/last.nemo"
    assert last in stages["last_rte"]


def test_tiny_has_the_last_word_but_for_the_caller(file: Path) -> None:
    recipe = load(file, "recipe.scale=tiny", "stages.last.model=tiny4", "stages.last_rte.epochs=9")
    stages = {stage.name: stage for stage in recipe.stages}
    assert list(stages)[:3] == ["data", "teacher", "student"]
    assert stages["data"].arguments == ("o/data", "o")
    assert stages["student"].needs == ("teacher", "data")
    assert "model.data.prefixes=[o/data/train]" in stages["student"].arguments
    assert "epochs=9" in stages["last_rte"].arguments
    assert "epochs=1" in stages["last_copa"].arguments
    assert recipe.inputs == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.lost.epochs=1", "stages.lost: no stage is called so; did you mean last?"),
        ("stages.lost.student=x", "has no stage lost; did you mean last?"),
        ("stages.last.student=studnt", "there is no stage 'studnt'; did you mean student?"),
        ("stages.student.student=last", "cannot start from last, which is there for every task"),
        ("stages.student.student=student", "student need each other"),
        ("sclae=tiny", "unknown key sclae; did you mean scale?"),
        ("scale=small", "scale=small: there are full, tiny"),
        ("tasks", "'tasks' is no key=value"),
        ("tasks=3", "tasks=3 is of the wrong type"),
        ("tasks=[rte,copaa]", "task=copaa is unknown; did you mean copa?"),
        ("stages.student.model.optim.lrr=1", "unknown key model.optim.lrr; did you mean"),
        ("stages.student.trainer.devices=x", "stage student: trainer.devices=x must be a number"),
        ("stages.last.gives=first", "stage last_rte gives first: choose best or last"),
    ],
)
def test_mistakes_are_named(file: Path, change: str, said: str) -> None:
    with pytest.raises(ConfigError) as at:
        load(file, change)
    assert said in str(at.value)


def test_unknown_recipes_and_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe is called 'tinybrt'; did you mean tinybert"):
        load_recipe("tinybrt")
    with pytest.raises(ConfigError, match=r"there is no recipe .*none.yaml"):
        load_recipe(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("stages: [")
    with pytest.raises(ConfigError, match=r"broken.yaml is no YAML file"):
        load_recipe(str(broken))
    broken.write_text("base: nothing")
    with pytest.raises(ConfigError, match="base 'nothing' is not in"):
        load_recipe(str(broken))
