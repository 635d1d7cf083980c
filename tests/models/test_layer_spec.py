"""Which layers are built: fused ones where Transformer Engine is, plain ones where taps are."""

from __future__ import annotations

from typing import Any

import pytest
from megatron.core.models.backends import LocalSpecProvider
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.spec_utils import ModuleSpec
from packaging.version import Version
from torch import nn

from glmkd_nemo.engine.norm import LocalLayerNorm
from glmkd_nemo.models.attention import PrefixAttention
from glmkd_nemo.models.layer_spec import block_spec
from glmkd_nemo.models.layers import GLMLayer
from tests.models.tiny import config, model

pytestmark = pytest.mark.usefixtures("alone")


class FusedLinear(nn.Module):
    """Stands for Transformer Engine's layernorm and projection in one."""


class FusedNorm(nn.Module):
    """Stands for its layernorm."""


class FusedProvider(LocalSpecProvider):
    """What Megatron-Core would take from Transformer Engine, as far as it is named here."""

    def fuse_layernorm_and_linear(self) -> bool:
        return True

    def column_parallel_layer_norm_linear(self) -> type:
        return FusedLinear

    def layer_norm(self, rms_norm: bool = False, for_qk: bool = False) -> type:
        return FusedNorm


@pytest.fixture
def transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed, as far as the choice of layers goes."""
    core = "megatron.core"
    specs = f"{core}.models.gpt.gpt_layer_specs"
    monkeypatch.setattr(f"{core}.transformer.transformer_block.HAVE_TE", True)
    monkeypatch.setattr(f"{specs}.HAVE_TE", True)
    monkeypatch.setattr(f"{specs}.TESpecProvider", FusedProvider, raising=False)
    monkeypatch.setattr(f"{core}.utils.get_te_version", lambda: Version("2.9"))
    monkeypatch.setattr(f"{core}.extensions.transformer_engine.TENorm", FusedNorm)


def is_fused(layer: ModuleSpec) -> bool:
    """Checks that a layer is one kind or the other in all its parts, and says which."""
    parts = layer.submodules
    attention = parts.self_attention
    assert layer.module is GLMLayer
    assert attention.params["attn_mask_type"] == AttnMaskType.arbitrary
    assert attention.submodules.core_attention is PrefixAttention
    fused = attention.submodules.linear_qkv is FusedLinear
    assert (parts.mlp.submodules.linear_fc1 is FusedLinear) == fused
    norms: Any = IdentityOp if fused else LocalLayerNorm
    assert (parts.input_layernorm, parts.pre_mlp_layernorm) == (norms, norms)
    return fused


@pytest.mark.usefixtures("transformer_engine")
def test_tapped_layers_stay_plain():
    found = block_spec(config(transformer_engine=None), range(2, 6), {0, 3, 5})
    assert [is_fused(layer) for layer in found.layer_specs] == [True, False, True, False]
    assert found.layer_norm is FusedNorm


@pytest.mark.usefixtures("transformer_engine")
def test_it_can_be_switched_off():
    found = block_spec(config(transformer_engine=False), range(3), ())
    assert not any(is_fused(layer) for layer in found.layer_specs)
    assert found.layer_norm is LocalLayerNorm


def test_without_it_all_layers_are_plain():
    found = block_spec(config(transformer_engine=None), range(3), {1})
    assert not any(is_fused(layer) for layer in found.layer_specs)
    assert found.layer_norm is LocalLayerNorm


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(
    ("changes", "kind"), [({}, "hybrid"), ({"fp8_e4m3": True}, "e4m3"), ({"fp8": False}, None)]
)
def test_fp8_reaches_megatron_core(changes: dict[str, Any], kind: str | None):
    found = config(**{"fp8": True, "fp8_margin": 2, "fp8_amax_history_len": 16, **changes})
    assert found.fp8 == kind
    if kind:
        assert (found.fp8_margin, found.fp8_amax_history_len) == (2, 16)
        assert found.fp8_amax_compute_algo == "max"


@pytest.mark.usefixtures("transformer_engine")
def test_student_and_teacher_have_recipes_of_their_own():
    student = config(fp8=True, fp8_recipe="blockwise")
    teacher = config(fp8=True, fp8_recipe="tensorwise", fp8_e4m3=True)
    assert (student.fp8, student.fp8_recipe) == ("hybrid", "blockwise")
    assert (teacher.fp8, teacher.fp8_recipe) == ("e4m3", "tensorwise")


@pytest.mark.usefixtures("transformer_engine")
def test_fp8_is_refused_where_it_would_do_nothing():
    assert block_spec(config(fp8=True), range(3), {0, 2})
    with pytest.raises(ValueError, match="all 3 layers of this model are tapped"):
        block_spec(config(fp8=True), range(3), {0, 1, 2})
    with pytest.raises(ValueError, match=r"hidden_size is 24, .* multiples of 16"):
        config(fp8=True, hidden_size=24)


def test_layernorms_are_marked_for_sequence_parallelism():
    wide = config(tensor_model_parallel_size=2, sequence_parallel=True)
    for settings, marked in ((config(), False), (wide, True)):
        norm = LocalLayerNorm(settings, 16, eps=1e-3)
        assert norm.eps == 1e-3
        assert [p.sequence_parallel for p in norm.parameters()] == [marked] * 2
    assert isinstance(model().decoder.final_layernorm, LocalLayerNorm)
