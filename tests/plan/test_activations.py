"""Formulas against what autograd really keeps, and losses really hold."""

from typing import Any

import pytest

from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.plan.activations import Tokens, attention_core, kept_by_layer, plain_layer
from glmkd_nemo.plan.losses import PEAK_PER_LOGIT, predicted_share


@pytest.mark.parametrize("explicit", [False, True])
def test_a_layer_keeps_what_the_formula_says(found: dict[str, Any], explicit: bool) -> None:
    real, formula = found["saved"][explicit]
    assert formula == pytest.approx(real, rel=0.01)


def test_recompute_keeps_the_input_only() -> None:
    tokens = Tokens(2, 256, 2)
    whole = kept_by_layer(config(recompute="full"), tokens, explicit=False, recompute=True)
    attention = kept_by_layer(config(recompute="selective"), tokens, explicit=False, recompute=True)
    nothing = kept_by_layer(config(), tokens, explicit=False, recompute=False)
    assert whole == tokens.count * 2 * 512
    assert whole < attention < nothing


@pytest.mark.parametrize("kind", sorted(PEAK_PER_LOGIT))
def test_losses_hold_as_many_copies_of_the_logits_as_the_table_says(
    found: dict[str, Any], kind: str
) -> None:
    assert PEAK_PER_LOGIT[kind] == pytest.approx(found["logits"][kind], rel=0.1, abs=1.0)


@pytest.mark.parametrize("kind", ["kl", "hard"])
def test_the_fused_head_needs_chunks_and_one_gradient(found: dict[str, Any], kind: str) -> None:
    peak, planned = found["fused"][kind]
    assert planned == pytest.approx(peak, rel=0.1)


def config(**more: Any) -> GLMConfig:
    return GLMConfig(vocab_size=1000, num_layers=2, hidden_size=512, num_attention_heads=8, **more)


def test_a_plain_layer_is_that_of_the_paper_but_for_the_kernels_output() -> None:
    """34 s b h bytes in half precision (arXiv 2205.05198, section 4.1), and 2 of the kernel."""
    tokens, norms, lse = Tokens(4, 1024, 2), 16, 4 * 8
    expected = tokens.count * (36 * 512 + norms + lse)
    assert plain_layer(config(), tokens, explicit=False) == expected


def test_sequence_parallelism_divides_all_of_it() -> None:
    tokens = Tokens(2, 256, 2)
    sizes = {"tensor_model_parallel_size": 4, "sequence_parallel": True}
    alone, parallel = config(), config(**sizes)
    whole = plain_layer(alone, tokens, explicit=False)
    assert 4 * plain_layer(parallel, tokens, explicit=False) == whole


def test_tapped_scores_cost_a_square_per_head() -> None:
    tokens = Tokens(2, 256, 2)
    difference = attention_core(config(), tokens, True) - attention_core(config(), tokens, False)
    assert difference > 8 * tokens.batch * tokens.length**2 * 6


def test_long_spans_may_be_predicted_as_a_whole() -> None:
    short = {"data": {"block_infilling": {"bert_prob": 1.0, "bert_ratio": 0.15}}}
    mixed = {"data": {"block_infilling": {"bert_prob": 0.5, "gap_sentence_prob": 0.3}}}
    assert predicted_share(short, None) == pytest.approx(0.2)
    assert predicted_share(mixed, None) == 1.0
    assert predicted_share(mixed, 0.3) == 0.3
