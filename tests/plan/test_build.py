"""Ranks built without memory hold exactly what real ones hold."""

from typing import Any

import pytest

PADDED, POSITIONS, HIDDEN, FFN = 256, 101, 64, 256


def of_glm(layers: int, h: int = HIDDEN, ffn: int = FFN) -> int:
    """Parameters of a whole GLM: tied head, two position tables, biases, three norms."""
    layer = 4 * h * h + 4 * h + 2 * h * ffn + ffn + h + 4 * h
    return (PADDED + 2 * POSITIONS) * h + layers * layer + 2 * h


def test_parameters_are_those_of_the_model(found: dict[str, Any]) -> None:
    (alone,) = found["built"]["alone"]
    assert alone["parameters"] == of_glm(4)
    assert alone["main_parameters"] == alone["parameters"]


def test_stages_hold_a_copy_of_the_tied_head_and_their_layers(found: dict[str, Any]) -> None:
    first, last = found["built"]["pp2"]
    assert first["layers"] == last["layers"] == [2, 2]
    assert first["parameters"] + last["parameters"] == of_glm(4) + PADDED * HIDDEN


def test_tensor_parallel_ranks_hold_half_of_what_is_sharded(found: dict[str, Any]) -> None:
    (half,) = found["built"]["tp2"]
    layer = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * FFN + 3 * HIDDEN + FFN
    assert of_glm(4) - half["parameters"] == (4 * layer + PADDED * HIDDEN) // 2


def test_the_distributed_optimizer_shards_its_state(found: dict[str, Any]) -> None:
    (sharded,), (whole,) = found["built"]["dp4"], found["built"]["adam"]
    assert sharded["main_parameters"] == pytest.approx(of_glm(4) / 4, rel=0.02)
    assert sharded["optimizer"] == 12 * sharded["main_parameters"]  # fp32 weights, two states
    assert whole["optimizer"] == 8 * of_glm(4)  # fp32: the weights are their own main weights


def test_teachers_are_counted_on_their_stages(found: dict[str, Any]) -> None:
    stages = found["built"]["kd pp2"]
    total = sum(stage["teachers"]["t0"] for stage in stages)
    assert total == of_glm(6, 96, 384) + PADDED * 96


def test_teachers_have_a_precision_of_their_own(found: dict[str, Any]) -> None:
    (rank,) = found["built"]["half teacher"]
    assert rank["teacher_weights"]["t0"] == 2 * of_glm(6, 96, 384)
    assert rank["weights"] == found["built"]["alone"][0]["weights"]  # the student stays in fp32


def test_of_an_offloaded_teacher_two_layers_are_on_the_device(found: dict[str, Any]) -> None:
    (rank,) = found["built"]["offloaded"]
    ends = 4 * of_glm(0, 96, 384)
    layer = 4 * (of_glm(1, 96, 384) - of_glm(0, 96, 384))
    assert rank["teacher_weights"]["t0"] == ends
    assert rank["layer_buffers"] == pytest.approx(2 * layer, rel=0.01)  # each tensor is aligned
    assert rank["offloaded"]["t0"] == 3 * rank["layer_buffers"]


def test_projections_of_methods_are_trained(found: dict[str, Any]) -> None:
    (rank,) = found["built"]["tinybert"]
    assert rank["parameters"] == of_glm(4) + HIDDEN * 96 + 96


@pytest.mark.parametrize(("name", "precision"), [("alone", 32), ("bf16", "bf16")])
def test_state_is_to_the_byte_that_of_a_real_run(
    found: dict[str, Any], name: str, precision: Any
) -> None:
    (rank,) = found["built"][name]
    planned = rank["weights"] + rank["gradients"] + rank["optimizer"]
    assert planned == found["state"][precision]
