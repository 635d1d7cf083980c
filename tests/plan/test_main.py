"""The planner's command: tables, search, and errors that say what would help."""

from typing import Any

import pytest

from glmkd_nemo.plan.layout import candidates
from glmkd_nemo.plan.main import main


def test_a_plan_tells_memory_fit_and_time(found: dict[str, Any]) -> None:
    code, text = found["printed"]["plan"]
    assert code == 0
    words = ("tiny4 <- tiny4 (kd)", "stage 1", "teacher weights", "peak", "fits: ", "step: about")
    assert [word for word in words if word not in text] == []


def test_a_search_ends_with_overrides_to_paste(found: dict[str, Any]) -> None:
    code, text = found["printed"]["search"]
    assert code == 0
    assert "the fastest" in text
    assert text.splitlines()[-1].startswith("overrides: model.tensor_model_parallel_size=")


def test_what_does_not_fit_is_refused_with_its_largest_part(found: dict[str, Any]) -> None:
    code, text = found["printed"]["too large"]
    assert code == 1
    assert "nothing fits" in text
    assert "the largest part is" in text


def test_a_stage_of_a_recipe_is_planned_at_its_own_layout(found: dict[str, Any]) -> None:
    code, text = found["printed"]["recipe"]
    assert code == 0
    assert "recipe tinybert, stage pretrain: 1 x 4 v100-32g" in text
    assert "6 + 12" in text  # layers of the student, and of the teacher that the recipe names


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no stage", "did you mean pretrain?"),
        ("which stage", "write stage=NAME (one of teacher_ft_record, pretrain"),
        ("no number", "model.micro_batch_size='x' is of the wrong type"),
        ("no number", "model.optim.lr='y' is of the wrong type"),
        ("indivisible", "cannot hold model.tensor_model_parallel_size=3"),
        ("no bf16", "precision=bf16: this GPU has 16, 32"),
        ("no method", "add method=glmd"),
        ("vocabularies", "reads a gpt2 vocabulary and the student bert"),
        ("unknown teacher", "did you mean base?"),
    ],
)
def test_errors_name_the_remedy(found: dict[str, Any], case: str, words: str) -> None:
    code, text = found["printed"][case]
    assert code == 2
    assert text.startswith("error: ")
    assert words in text


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("gpu=h100-80", "did you mean h100-80g?"),
        ("assumed.mfo=0.5", "did you mean assumed.mfu?"),
        ("nodes=0", "nodes=0 must be at least 1"),
        ("nonsense", "is no key=value"),
        ("distributed_optimizer=2", "write true or false"),
    ],
)
def test_settings_are_strict(argument: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 2
    assert words in capsys.readouterr().err


def test_candidates_divide_everything_and_keep_tensor_parallelism_inside_a_node() -> None:
    model = {"num_layers": 6, "hidden_size": 768, "num_attention_heads": 12}
    model |= {"global_batch_size": 48, "sequence_parallel": True}
    layouts = list(candidates(model, nodes=2, per_node=8, max_pipeline=4))
    sizes = {(layout.tp, layout.pp) for layout in layouts}
    assert sizes == {(tp, pp) for tp in (1, 2, 4) for pp in (1, 2, 4)}
    assert all(layout.dp * layout.micro_batches * layout.micro == 48 for layout in layouts)
    assert all(layout.sequence_parallel == (layout.tp > 1) for layout in layouts)
