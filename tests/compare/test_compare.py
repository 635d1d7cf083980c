"""The comparison: what it finds to compare, what it skips, what it says, its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.compare import main, recipes, run
from glmkd_nemo.compare.page import all_rows, cells, write_page
from glmkd_nemo.compare.recipes import Entry, entries, in_two_stages
from glmkd_nemo.compare.results import Comparison, Row
from glmkd_nemo.compare.run import Compare
from glmkd_nemo.compare.settings import load_settings
from glmkd_nemo.demo.process import StageFailedError
from glmkd_nemo.demo.settings import load_settings as load_demo
from tests.distill.conftest import alone  # noqa: F401  (a fixture)

STUDENT, TEACHER = (2, 16, 4, 64), (4, 32, 4, 64)


def folder(tmp_path: Path) -> Path:
    for name in ("method/kd", "method/abc", "method/task", "aggregator/mean"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("terms: {x: {method: kd, of: classes}}" if "task" in name else "")
    return tmp_path


def test_recipes_are_found_by_listing(tmp_path: Path) -> None:
    conf = folder(tmp_path)
    everything = [Entry("method", "abc"), Entry("method", "kd"), Entry("aggregator", "mean")]
    assert entries([], conf) == everything
    assert entries(["mean", "kd"], conf) == everything[1:]
    assert [entry.key for entry in everything] == ["abc", "kd", "teachers_mean"]
    with pytest.raises(ValueError, match=r"'maen'; there are .*Did you mean 'mean'\?"):
        entries(["maen"], conf)


@pytest.mark.usefixtures("alone")
def test_a_recipe_is_read_as_shipped_with_changed_options() -> None:
    teachers, kd = {"t0": TEACHER}, Entry("method", "kd")
    read = recipes.read(kd, {"kd": {"mask": "none"}}, [STUDENT], teachers)
    assert read["distill"]["terms"]["kd"]["mask"] == "none"
    assert read["distill"]["terms"]["kd"]["temperature"] == 10.0
    assert read["predicts"]
    read = recipes.read(Entry("method", "tinybert"), {}, [STUDENT], teachers)
    assert not read["predicts"]
    with pytest.raises(ValueError, match="4 heads and the teacher 8"):
        recipes.read(Entry("method", "tinybert"), {}, [STUDENT], {"t0": (4, 32, 8, 64)})


@pytest.mark.usefixtures("alone")
def test_a_recipe_for_equal_widths_gets_a_wide_student() -> None:
    entry, wide = Entry("method", "pkd"), (2, 32, 4, 64)
    assert recipes.read(entry, {}, [STUDENT, wide], {"t0": TEACHER})["student"] == 1


def test_two_stages_follow_each_other() -> None:
    terms = in_two_stages({"x": {"method": "glmd"}}, 0.25, {"hard": {"method": "hard"}})
    until = {n: (t["schedule"]["begin"], t["schedule"]["until"]) for n, t in terms.items()}
    assert until == {"x": (0.0, 0.25), "then_hard": (0.25, 1.0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "--steps"), ({"stepz": 3}, "stepz"), ({"first_stage": 1.0}, "first_stage")],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    assert load_settings({"steps": None}).steps == 200
    with pytest.raises(ValueError, match=message):
        load_settings(changes)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["minilmv2", "combination"])
def test_relation_heads_are_checked_without_a_layout(name: str) -> None:
    students = [(2, 96, 4, 64), (2, 192, 4, 64)]
    read = recipes.read(Entry("method", name), {}, students, {"t0": (4, 192, 4, 64)})
    assert "minilmv2" in read["distill"]["terms"]


class Children:
    """Stands in for the processes of text, trainings and measurements."""

    def __init__(self, failing: str = "") -> None:
        self.trained: list[str] = []
        self.configs: dict[str, Any] = {}
        self.failing = failing

    def __call__(self, function: str, *args: Any) -> Any:
        if function.endswith(".read"):
            name = args[0].name
            terms = {name: {"method": name}}
            return {
                "distill": {"terms": terms},
                "predicts": name != "tinybert",
                "student": name == "pkd",
            }
        if function.endswith(".sort_vocabulary"):
            return None
        if function.endswith(".held_out"):
            return {"loss": 5.0 - 0.1 * len(Path(args[0]).name), "accuracy": 0.25}
        name = args[2]["name"]
        if name == self.failing:
            raise StageFailedError("it died")
        self.trained.append(name)
        self.configs[name] = args[2]
        losses = {"steps": [1], "losses": [4.0], "step_seconds": 0.1, "parameters": 7}
        return {"nemo": f"{name}.nemo", **losses}


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    found = Children()
    for module in ("glmkd_nemo.compare.run", "glmkd_nemo.demo.run"):
        monkeypatch.setattr(f"{module}.run_apart", found)
    monkeypatch.setattr(run, "warm_up", lambda module: None)
    corpus = {"target_share": 0.2, "tokens": {}, "blanks": [], "name": "x"}
    monkeypatch.setattr("glmkd_nemo.demo.run.prepare_corpus", lambda *args: corpus)
    return found


def compare(tmp_path: Path, lines: list[str] | None = None, **changes: Any) -> Compare:
    settings = load_settings({"out": str(tmp_path / "compare"), "steps": 8, **changes})
    say = (lines if lines is not None else []).append
    return Compare(settings, load_demo([f"out={tmp_path / 'demo'}"]), say)


METHODS = [Entry("method", "kd"), Entry("method", "tinybert")]


def test_a_finished_student_is_skipped(tmp_path: Path, children: Children) -> None:
    compare(tmp_path).run(METHODS[:1])
    assert children.trained == ["teacher", "scratch", "kd"]
    lines: list[str] = []
    found = compare(tmp_path, lines).run(METHODS)
    assert children.trained == ["teacher", "scratch", "kd", "tinybert"]
    assert "  done before" in lines
    assert [row.label for row in found.ranked()] == ["tinybert", "kd"]  # the better one first
    compare(tmp_path, steps=9).run(METHODS)
    assert children.trained[4:] == ["scratch", "kd", "tinybert"]  # not the teacher


def test_objectives_and_teachers(tmp_path: Path, children: Children) -> None:
    found = compare(tmp_path).run([*METHODS, Entry("aggregator", "mean")])
    kd, both, mean = (children.configs[n] for n in ("kd", "tinybert", "teachers_mean"))
    assert list(kd["model"]["distill"]["terms"]) == ["kd"]
    assert list(both["model"]["distill"]["terms"]) == ["tinybert", "then_soft", "then_hard"]
    assert list(kd["model"]["teachers"]) == ["t0"]
    assert mean["model"]["teachers"]["t1"]["restore_from_path"] == "second_teacher.nemo"
    assert kd["trainer"]["max_steps"] == 8
    assert "teachers" not in children.configs["scratch"]["model"]
    assert {row.label: row.learns for row in found.rows}["tinybert"] == "tinybert, then kd, hard"


def test_a_recipe_that_cannot_be_trained_does_not_end_the_others(
    tmp_path: Path, children: Children
) -> None:
    children.failing = "kd"
    found = compare(tmp_path).run(METHODS)
    assert found.refused == {"kd": "it died"}
    assert [row.label for row in found.rows] == ["tinybert"]
    children.failing = ""
    assert not compare(tmp_path).run(METHODS).refused


def test_a_wide_student_has_a_baseline_of_its_own(tmp_path: Path, children: Children) -> None:
    found = compare(tmp_path).run([*METHODS, Entry("method", "pkd")])
    assert [row.student for row in found.scratch] == ["2 x 96", "2 x 192"]
    assert children.configs["pkd"]["model"]["hidden_size"] == 192
    rows = {row.label: row for row in found.rows}
    assert found.gain(rows["pkd"]) == pytest.approx(rows["pkd"].loss - found.scratch[1].loss)
    assert found.gain(rows["kd"]) == pytest.approx(rows["kd"].loss - found.scratch[0].loss)


def test_a_recipe_may_change_the_model(tmp_path: Path, children: Children) -> None:
    entry = Entry("method", "glmd_vc")
    compare(tmp_path).run([entry])
    found = children.configs["glmd_vc"]["model"]["vocab_map"]
    assert found["size"] == 0.5
    assert found["table"] == str(tmp_path / "compare" / "vocabulary.tsv")


def comparison() -> Comparison:
    small, wide = "2 x 96", "2 x 192"
    scratch = [Row("labels only", s, "hard", loss, 0.2, 0.1) for s, loss in ((small, 5), (wide, 4))]
    teacher = Row("teacher", "4 x 192", "hard", 4.5, 0.3, 1)
    rows = [Row("<b>", wide, "x", 4.1, 0.1, 0.2), Row("kd", small, "kd, hard", 4.9, 0.2, 0.1)]
    return Comparison(teacher, scratch, rows, {"other": "a & b"}, {"seed": "1"})


def test_the_page_is_ordered_and_stands_alone(tmp_path: Path) -> None:
    found = comparison()
    labels = [row.label for row in all_rows(found)]
    assert labels == ["teacher", "labels only", "labels only", "kd", "<b>"]
    gains = [cells(found, row)[4] for row in all_rows(found)]
    assert gains == ["", "", "", "-0.100", "+0.100"]
    write_page(found, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<b>" not in text
    assert "a &amp; b" in text
    assert 'src="http' not in text
    found.save(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["scratch"][0]["loss"] == 5


def test_errors_of_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["kdd"]) == main.USER_ERROR
    assert main.main(["--demo", "teacher.step=3"]) == main.USER_ERROR
    printed = capsys.readouterr().err
    assert "Did you mean 'kd'" in printed
    assert "teacher.steps" in printed
