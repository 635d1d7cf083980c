"""What every method has to pass, found by itself: gradients, layouts, recompute, state, options.

``pytest tests/distill/test_kit.py -k my_method`` checks one. What a method needs on tiny models
stands in ``kit.SETTINGS``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import dist_checkpointing

from glmkd_nemo.checkpoint.sharded import save_directory
from glmkd_nemo.distill.aggregators import aggregator_class, aggregator_from_dict
from glmkd_nemo.distill.methods import NAMES, method_class
from glmkd_nemo.distill.objective import Objective, term_from_dict
from tests.distill import kit
from tests.distill.kit import Bench, chosen_names
from tests.distill.kit_ranks import LAYOUTS, samples
from tests.launch import run_ranks

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("alone")]
EXACT = 1e-9
every_method = pytest.mark.parametrize("name", NAMES)
every_one = pytest.mark.parametrize("name", [*NAMES, *kit.AGGREGATED])


@pytest.fixture(scope="module")
def launched(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Values and gradients by layout and method: one launch per number of processes."""
    items = [item for item in request.session.items if item.fspath == request.node.fspath]
    names = chosen_names(items)
    asked = {item.callspec.params.get("layout") for item in items if hasattr(item, "callspec")}
    found: dict[str, dict[str, Any]] = {}
    for world in sorted({LAYOUTS[key][0] for key in LAYOUTS if key in asked}):
        keys = [key for key in LAYOUTS if key in asked and LAYOUTS[key][0] == world]
        args = {"names": names, "layouts": keys}
        found |= run_ranks("tests.distill.kit_ranks:run", world, args, timeout=500)
    return found


@pytest.fixture(scope="module")
def one_process() -> dict[str, Any]:
    """Values and gradients of one process, by method, as far as asked for."""
    return {}


def reference(one_process: dict[str, Any], name: str) -> Any:
    if name not in one_process:
        one_process[name] = Bench(name).run(samples(name))
    return one_process[name]


def check_equal(found: Any, expected: Any) -> None:
    """Values and gradients are the same numbers, up to rounding."""
    for what, ours, theirs in zip(("value", "gradient"), found, expected, strict=True):
        assert ours.keys() == theirs.keys(), what
        for key in theirs:
            x, y = (torch.as_tensor(z[key], dtype=torch.float64) for z in (ours, theirs))
            error = float((x - y).norm() / y.norm().clamp(min=1e-12))
            assert error <= EXACT, f"{what} of {key}: off by {error:.1e}"


@every_method
def test_gradient_against_finite_differences(name: str):
    errors = kit.against_differences(name)
    assert errors
    off = {part: f"{error:.1e}" for part, error in errors.items() if not error <= 1e-5}
    assert not off


@every_one
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_nothing(
    launched: dict[str, Any], one_process: dict[str, Any], name: str, layout: str
):
    if layout == "dp2" and kit.setting(name).no_dp:
        pytest.skip(kit.setting(name).no_dp)
    found = launched[layout][name]
    if isinstance(found, str):
        pytest.fail(found[-2000:], pytrace=False)
    check_equal(found, reference(one_process, name))


@every_one
@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recompute_changes_nothing(one_process: dict[str, Any], name: str, recompute: str):
    found = Bench(name, recompute=recompute).run(samples(name))
    check_equal(found, reference(one_process, name))


@every_one
def test_state_survives_a_checkpoint(name: str, tmp_path: Path):
    def state(objective: Objective) -> dict[str, torch.Tensor]:
        return {**dict(objective.named_parameters()), **dict(objective.named_buffers())}

    saved, other = (Bench(name, seed=seed).objective for seed in (5, 6))
    with torch.no_grad():
        for number, tensor in enumerate(state(saved).values(), 1):
            tensor.copy_(torch.full_like(tensor, number))  # nothing is as it was built
    assert saved.replicated_state("distill.").keys() == {f"distill.{n}" for n in state(saved)}
    save_directory(saved.replicated_state("distill."), tmp_path / "saved")
    loaded = dist_checkpointing.load(other.replicated_state("distill."), str(tmp_path / "saved"))
    other.load_state_dict({n.removeprefix("distill."): t for n, t in loaded.items()})
    for key, tensor in state(other).items():
        assert torch.equal(tensor, state(saved)[key]), key


@every_method
def test_strict_options(name: str):
    options = [field.name for field in dataclasses.fields(method_class(name).Config)]
    for key in [*options, "weight"]:
        misspelt = f"{key[:2]}{key[3:]}" if len(key) > 4 else f"{key}{key[-1]}"
        with pytest.raises(ValueError, match=rf"no key '{misspelt}'.*Did you mean '{key}'\?"):
            term_from_dict("x", {"method": name, misspelt: 1}, ["t0"])


@pytest.mark.parametrize("name", kit.AGGREGATED)
def test_strict_options_of_aggregators(name: str):
    section, shapes = kit.aggregator(name), list(kit.fitting(name, 0).teachers.values())
    cls = aggregator_class(section["name"])
    for key in (field.name for field in dataclasses.fields(cls.Config)):
        misspelt = {**section, f"{key[:-2]}{key[-1]}": 1}
        with pytest.raises(ValueError, match=rf"has no key '.*Did you mean '{key}'\?"):
            aggregator_from_dict(misspelt, shapes[0], shapes)


@every_method
def test_its_recipe_lists_its_options(name: str):
    path = kit.CONF / "method" / f"{name}.yaml"
    if not method_class(name).needs_teacher:
        assert not path.is_file()  # it distils nothing by itself
        return
    options = {field.name for field in dataclasses.fields(method_class(name).Config)}
    assert path.read_text().startswith("# @package model.distill\n")
    missing = options - kit.recipe(name).keys()
    assert not missing, f"{path.name} does not name {sorted(missing)}"
    assert term_from_dict("x", kit.recipe(name), ["t0"]).options is not None
