"""The recorded numbers of the reference, in every parallel layout: loss and gradients to 1e-5."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.replay.case import Case
from tests.golden.ranks import Row
from tests.launch import run_ranks

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5
CASES = sorted(
    str(path.parent.relative_to(HERE))
    for path in HERE.glob("*/*/case.json")
    if Case(path.parent).excluded is None
)
SUBSET = [
    "distill_mt/uncertainty_inter_entropy_single",
    "distill_pt/diito_readme_seed1000",
    "distill_pt/lrc_bert_gard_perturb",
    "distill_pt/theseus_iter33_seed1004",
    "distill_pt/universal_kd",
    "distill_ft_lm/kd_ce_T10_hard",
    "distill_ft_multi/kd_readme",
    "distill_ft_multi/logitsdistil_ft1_mask_a",
    "distill_ft_single/tinybert_ft1_readme",
    "distill_pt/kd_rates",
    "distill_pt/kd_readme_soft_hard_T10",
    "distill_pt/logitsdistil_readme",
    "distill_pt/logitsdistil_top20",
    "distill_pt/logitsdistil_top20_teacher_min",
    "distill_pt/tinybert_3layer_student",
    "distill_pt/tinybert_random_layers",
    "distill_pt/tinybert_readme",
    "glm/plain_3x64",
    "heads/multi_token_cloze_fast",
    "heads/multiple_choice_head_cls",
    "heads/seq_classification_start",
    "heads/single_token_cloze_softmax",
]
# layout -> number of processes, settings
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "single": (1, {}),
    "recompute_full": (1, {"recompute": "full"}),
    "recompute_selective": (1, {"recompute": "selective"}),
    "tp2": (2, {"tp": 2}),
    "tp2_sp": (2, {"tp": 2, "sp": True}),
    "pp2": (2, {"pp": 2}),
    "tp2_pp2": (4, {"tp": 2, "pp": 2}),
}
SINGLE = "single"
Results = dict[str, dict[str, list[Row]]]

pytestmark = pytest.mark.timeout(900)


def run(cases_of: dict[str, list[str]]) -> Results:
    """Errors by layout and case; layouts of as many processes share a launch."""
    found: Results = {}
    for world in sorted({LAYOUTS[layout][0] for layout in cases_of}):
        jobs = {
            layout: {"cases": [str(HERE / name) for name in cases], **LAYOUTS[layout][1]}
            for layout, cases in cases_of.items()
            if LAYOUTS[layout][0] == world
        }
        raw = run_ranks("tests.golden.ranks:replay", world, {"jobs": jobs}, timeout=800)
        for layout, by_folder in raw.items():
            found[layout] = {
                os.path.relpath(folder, HERE): rows for folder, rows in by_folder.items()
            }
    return found


@pytest.fixture(scope="module")
def results() -> Results:
    return run({layout: CASES if layout == SINGLE else SUBSET for layout in LAYOUTS})


@pytest.fixture(scope="module")
def all_results() -> Results:
    return run({layout: CASES for layout in LAYOUTS if layout != SINGLE})


def check(rows: list[Row], case: str) -> None:
    """Every error is small, and every kind of quantity that the case records was compared."""
    off = [f"{kind} {name}: {value:.2e}" for kind, name, value in rows if not value <= TOLERANCE]
    assert not off, "\n".join(off)
    kinds = {kind for kind, _, _ in rows}
    assert kinds >= {"logits", "loss", "gradient"}
    assert ("component" in kinds) == case.startswith("distill_")


def test_the_cases_are_here():
    assert len(CASES) == 69
    assert set(SUBSET) < set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_one_process(results: Results, case: str):
    check(results[SINGLE][case], case)


@pytest.mark.parametrize("case", SUBSET)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != SINGLE])
def test_layouts(results: Results, layout: str, case: str):
    check(results[layout][case], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != SINGLE])
def test_all_cases_in_all_layouts(all_results: Results, layout: str, case: str):
    check(all_results[layout][case], case)
