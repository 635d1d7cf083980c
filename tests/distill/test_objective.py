"""Terms from configuration, their weights over training, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glmkd_nemo.distill.method import Method, ModelShape, StepContext
from glmkd_nemo.distill.methods import NAMES, method_class
from glmkd_nemo.distill.objective import Objective, TermConfig, term_from_dict

STUDENT, TEACHER = ModelShape(2, 32, 4), ModelShape(4, 64, 4)


def objective(terms: dict[str, dict[str, Any]], seed: int = 0, **teachers: ModelShape) -> Objective:
    teachers = teachers or {"t0": TEACHER}
    read = {name: term_from_dict(name, node, teachers) for name, node in terms.items()}
    return Objective(read, STUDENT, teachers, seed)


def test_keys_of_term_and_method_stand_side_by_side():
    schedule = {"kind": "linear", "until": 0.5}
    node = {"method": "kd", "weight": 0.25, "temperature": 3.0, "schedule": schedule}
    term = term_from_dict("soft", node, ["t0"])
    assert isinstance(term, TermConfig)
    assert (term.method, term.weight, term.teacher) == ("kd", 0.25, "t0")
    assert (term.options.temperature, term.options.loss, term.options.mask) == (3.0, "kl", "target")
    assert (term.schedule.kind, term.schedule.until, term.schedule.begin) == ("linear", 0.5, 0.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "distill.terms.x names no method"),
        ({"method": "tinybrt"}, r"no method is called 'tinybrt'.*Did you mean 'tinybert'\?"),
        (
            {"method": "zzz"},
            r"no method is called 'zzz'; there are .* kd, .*tinybert, universal_kd\.$",
        ),
        ({"method": "kd", "temprature": 1}, r"no key 'temprature' \(kd\). Did you mean 'tempera"),
        ({"method": "kd", "wieght": 1}, r"no key 'wieght' \(kd\). Did you mean 'weight'\?"),
        ({"method": "kd", "options": {}}, "no key 'options'"),
        ({"method": "hard", "temperature": 1}, "no key 'temperature'"),
        ({"method": "kd", "teacher": "t9"}, "asks for teacher 't9'; there are t0, t1"),
        ({"method": "kd"}, "names no teacher; there are t0, t1"),
        ({"method": "hard", "schedule": {"kind": "up"}}, "'up' is unknown"),
    ],
)
def test_what_a_term_refuses(node: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        term_from_dict("x", node, ["t0", "t1"])


def test_a_missing_teacher_comes_with_the_remedy():
    with pytest.raises(ValueError, match=r"model.teachers.t0.restore_from_path"):
        term_from_dict("x", {"method": "kd"}, [])


def test_hard_labels_need_no_teacher():
    assert term_from_dict("x", {"method": "hard"}, ["t0"]).teacher is None
    assert objective({"hard": {"method": "hard"}}).parts(StepContext())[0].teacher is None


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_found_by_name(name: str):
    method = method_class(name)
    assert issubclass(method, Method)
    assert method.__doc__


def test_parts_are_named_weighted_and_scheduled():
    terms = {
        "soft": {"method": "kd", "weight": 0.5, "schedule": {"kind": "linear", "end": 0.0}},
        "hard": {"method": "hard", "schedule": {"kind": "stage", "begin": 0.5}},
    }
    found = objective(terms)
    at = {p: found.parts(StepContext(step=p, max_steps=100)) for p in (0, 50, 80)}
    assert [(p.name, p.weight, p.teacher) for p in at[0]] == [("soft/soft", 0.5, "t0")]
    weights = [{p.name: p.weight for p in at[step]} for step in (50, 80)]
    assert weights[0] == {"soft/soft": pytest.approx(0.25), "hard/hard": 1.0}
    assert weights[1] == {"soft/soft": pytest.approx(0.1), "hard/hard": 1.0}
    # all layers are placed before training, whatever is active at its start
    assert [p.name for p in found.possible_parts()] == ["soft/soft", "hard/hard"]


def test_a_step_without_an_active_term_is_refused():
    found = objective({"hard": {"method": "hard", "schedule": {"kind": "stage", "until": 0.5}}})
    assert found.parts(StepContext(step=49, max_steps=100))
    with pytest.raises(ValueError, match=r"no term is active at 50.0% of training"):
        found.parts(StepContext(step=50, max_steps=100))
    with pytest.raises(ValueError, match="empty"):
        Objective({}, STUDENT, {})


def test_projections_are_seeded_and_leave_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, three = (objective({"x": {"method": "tinybert"}}, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    names = [name for name, _ in one.named_parameters()]
    assert names == ["methods.x.fit_dense.weight", "methods.x.fit_dense.bias"]
    weight = one.get_parameter(names[0])
    assert weight.shape == (TEACHER.hidden, STUDENT.hidden)
    assert torch.equal(weight, two.get_parameter(names[0]))
    assert not torch.equal(weight, three.get_parameter(names[0]))


def test_each_term_asks_its_own_teacher():
    terms = {
        "a": {"method": "tinybert", "teacher": "deep"},
        "b": {"method": "kd", "teacher": "shallow"},
    }
    found = objective(terms, deep=ModelShape(6, 96, 4), shallow=ModelShape(3, 64, 8))
    assert {p.name.split("/")[0]: p.teacher for p in found.possible_parts()} == {
        "a": "deep",
        "b": "shallow",
    }
    assert found.get_parameter("methods.a.fit_dense.weight").shape == (96, 32)


def test_a_tap_beyond_a_model_is_refused():
    terms = {"x": {"method": "tinybert", "layers": "embedding_final", "custom_final": 4}}
    with pytest.raises(ValueError, match="layer -1: the model has 2 layers"):
        objective(terms)
