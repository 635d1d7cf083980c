"""What is run: settings, cells, configurations, the spelling of overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from glmkd_nemo.config.strict import ConfigError
from glmkd_nemo.tune.plan import Cell, cells, waves
from glmkd_nemo.tune.settings import load_settings
from glmkd_nemo.tune.spelling import spell
from glmkd_nemo.tune.sweep import interval


def test_a_file_and_arguments_change_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("space: {model: {optim: {weight_decay: [0, 0.1]}}}\nmethods: [kd]\n")
    settings = load_settings([str(file), "tasks=[cb]", "space.epochs=[5]"])
    assert settings.space == {"model.optim.weight_decay": [0, 0.1], "epochs": [5]}
    assert settings.methods == {"kd": {"method": "kd"}}
    assert settings.tasks == ["cb"]
    changed = load_settings(["space.model.optim.lr=[1e-4]"])
    assert changed.space == {
        "model.optim.lr": [1e-4]
    }  # the file's key has dots, this one is nested


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seedz=[1]", "unknown key seedz; did you mean seeds"),
        ("per_task.rte.spaces.x=1", "unknown key per_task.rte.spaces; did you mean"),
        ("per_task.cb.space.x=1", "per_task.cb: not one of tasks"),
        ("tasks=[]", "tasks is empty"),
        ("seeds=[1,1]", "seeds names one twice"),
        ("jobs=0", "jobs must be at least 1"),
        ("jobs=many", "jobs='many' is of the wrong type"),
        ("methods.kd=5", "does not fit methods: .* as a whole"),
        ("only", "neither a .yaml file nor key=value"),
    ],
)
def test_impossible_settings(argument: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings([argument])


def planned(*arguments: str) -> list[Cell]:
    return cells(load_settings(list(arguments)))


def test_the_more_particular_override_wins() -> None:
    found = planned(
        "tasks=[rte,copa]",
        "methods={a: {method: kd, epochs: 3}, b: {}}",
        "overrides={epochs: 1, task.data_dir: 'data/{task}', model.optim.lr: 7}",
        "space={model.optim.lr: [1, 2]}",
        "per_task={copa: {overrides: {epochs: 2}, space: {model.optim.lr: [3]}}}",
    )
    epochs = {(c.task, c.method): c.base["epochs"] for c in found}
    assert epochs == {("rte", "a"): 3, ("rte", "b"): 1, ("copa", "a"): 3, ("copa", "b"): 2}
    assert [c.space["model.optim.lr"] for c in found] == [[1, 2], [1, 2], [3], [3]]
    assert found[0].base == {"epochs": 3, "task.data_dir": "data/rte", "method": "kd"}
    fixed = planned("methods={a: {model.optim.lr: 5}, b: {}}")
    assert [(c.method, list(c.space)) for c in fixed[:2]] == [("a", []), ("b", ["model.optim.lr"])]


def test_folders_depend_on_overrides_alone() -> None:
    cell = Cell("rte", "kd", {"epochs": 1, "method": "kd"}, {"x": [1, 2], "y": [3, 4]})
    grid = cell.grid()
    assert [c.values for c in grid[:2]] == [{"x": 1, "y": 3}, {"x": 1, "y": 4}]
    assert len({c.key for c in grid}) == 4
    again = Cell("rte", "kd", {"method": "kd", "epochs": 1}, {"y": [4], "x": [1]})
    assert again.grid()[0].key == grid[1].key
    assert cell.configuration({"x": 1}).key != grid[0].key


def test_methods_wait_for_the_best_run_of_others() -> None:
    found = planned(
        "tasks=[rte]",
        "methods={last: {restore_from_path: '{best:first}/best.nemo'}, first: {}}",
    )
    ordered = waves(found)
    assert [[c.method for c in wave] for wave in ordered] == [["first"], ["last"]]
    filled = ordered[1][0].with_best({"first": Path("runs/x")})
    assert filled.base["restore_from_path"] == "runs/x/best.nemo"
    with pytest.raises(ConfigError, match="no method is called 'frist'; did you mean first"):
        waves(planned("methods={first: {}, b: {restore_from_path: '{best:frist}'}}"))
    with pytest.raises(ConfigError, match="wait for each other"):
        waves(planned("methods={a: {x: '{best:b}'}, b: {x: '{best:a}'}}"))


PLAIN = [1, 1e-5, True, None, "rte", "a/b.nemo", "with space", "it's", "1e5", "null", "a=b,c"]
OTHERS = ["", "{a}", "-1", "\\", "\\'", "x\\", [1, "a b"], [[0.9, 0.98]], {"patience": 3}]


@pytest.mark.parametrize("value", [*PLAIN, *OTHERS])
def test_hydra_reads_what_was_spelled(value: Any) -> None:
    override = OverridesParser.create().parse_override(f"key={spell(value)}")
    assert OmegaConf.create({"key": override.value()}).key == value


def test_a_space_is_choices_or_an_interval() -> None:
    assert interval([1, "a b"]) == "choice(1,'a b')"
    assert interval("interval(1e-5,1e-3)") == "interval(1e-5,1e-3)"
    assert interval(3) == "choice(3)"
    with pytest.raises(ConfigError, match="interval"):
        interval("interval(1e-5")
