"""Any registered method by itself on tiny models: builds it, runs it, measures its gradients.

What a method needs otherwise than its recipe says, because models here are tiny, stands in
``SETTINGS``; nothing else here knows a method by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from torch import Tensor, nn

from glmkd_nemo.checkpoint.original_glm import from_original, load_whole
from glmkd_nemo.distill.aggregators import NAMES as AGGREGATORS
from glmkd_nemo.distill.ahead_bounds import OFF, Bounds
from glmkd_nemo.distill.gather import whole_gradients
from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.methods import NAMES
from glmkd_nemo.distill.micro_batch import Pass
from glmkd_nemo.distill.objective import Objective, TermConfig, WeightedPart, term_from_dict
from glmkd_nemo.distill.passes import run_passes
from glmkd_nemo.distill.pipeline import sum_over_stages
from glmkd_nemo.distill.placement import place_teacher
from glmkd_nemo.distill.step import DistillationStep
from glmkd_nemo.distill.teachers import Teacher
from glmkd_nemo.models.config import GLMConfig
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel

CONF = Path(__file__).resolve().parents[2] / "conf"
SEVERAL = "several_"  # before the name of an aggregator
AGGREGATED = [f"{SEVERAL}{name}" for name in AGGREGATORS]
VOCAB, SEQUENCE, SAMPLES = 64, 16, 4
STUDENT = {"num_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
TEACHERS = (
    {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4},
    {"num_layers": 3, "hidden_size": 16, "num_attention_heads": 4},  # where width has to be equal
)
STEPS = 12
MIXED: dict[str, dict[str, Any]] = {  # what aggregators combine here
    "soft": {"method": "kd", "temperature": 3.0},
    "layers": {"method": "tinybert"},
    "hard": {"method": "hard"},
}


@dataclass(frozen=True)
class Setting:
    """What a method needs on tiny models.

    Attributes:
        options: of the method, beside those of its recipe.
        dp_batch: whether data-parallel ranks together form one batch for it (they exchange
            samples), so that one process has to take all samples at once to be equal.
        no_dp: why it is not the same with data parallelism, if so.
    """

    options: dict[str, Any] = field(default_factory=dict)
    dp_batch: bool = False
    no_dp: str = ""


SETTINGS: dict[str, Setting] = {
    "lrc_bert": Setting(dp_batch=True),
    "mgskd": Setting({"relation_heads": 8}),
    "minilmv2": Setting({"relation_heads": 8}),
    "several_mixture": Setting({"members": [{"name": "mean"}, {"name": "uncertainty"}]}),
    "several_rl_kd": Setting(no_dp="each forward pass is rewarded by the next of its rank"),
}


def setting(name: str) -> Setting:
    """The setting of a method."""
    return SETTINGS.get(name, Setting())


@cache
def recipe(name: str) -> dict[str, Any]:
    """Keys of the method's term in its YAML file; a method without one has no options."""
    path = CONF / "method" / f"{name}.yaml"
    if not path.is_file():
        return {"method": name}
    terms = yaml.safe_load(path.read_text())["terms"].values()
    found: dict[str, Any] = next(term for term in terms if term["method"] == name)
    return {key: value for key, value in found.items() if key not in ("schedule", "after")}


def aggregator(entry: str) -> dict[str, Any]:
    """The section ``distill.aggregator`` of ``several_NAME``: that of its YAML file, if any."""
    name = entry.removeprefix(SEVERAL)
    path = CONF / "aggregator" / f"{name}.yaml"
    found = yaml.safe_load(path.read_text())["aggregator"] if path.is_file() else {}
    return {"name": name, **found, **setting(entry).options}


def chosen_names(items: list[Any]) -> list[str]:
    """Methods that the selected tests (pytest items) of this kit are about."""
    calls = [item.callspec.params for item in items if hasattr(item, "callspec")]
    names = {call["name"] for call in calls if "name" in call and "layout" in call}
    return [name for name in [*NAMES, *AGGREGATED] if name in names]


def fitting(name: str, seed: int) -> Objective:
    """The method as the only term that has parts, with the first teacher that it takes.

    For an aggregator: KD, TinyBERT and labels, with two teachers.
    """
    if name.startswith(SEVERAL):
        terms = {n: term_from_dict(n, t, ["t0", "t1"], aggregated=True) for n, t in MIXED.items()}
        two = {"t0": _shape(TEACHERS[0]), "t1": _shape(TEACHERS[1])}
        return Objective(terms, _shape(STUDENT), two, seed, aggregator(name)).double()
    term = term_from_dict("x", {**recipe(name), **setting(name).options}, ["t0"])
    for sizes in TEACHERS[:-1]:
        try:
            return _objective(term, sizes, seed)
        except ValueError:
            continue
    return _objective(term, TEACHERS[-1], seed)


def _objective(term: TermConfig, teacher: dict[str, int], seed: int) -> Objective:
    student, teachers = _shape(STUDENT), {"t0": _shape(teacher)}
    terms = {"x": term}
    if not Objective(terms, student, teachers, seed).possible_parts():  # no loss of its own
        terms["hard"] = term_from_dict("hard", {"method": "hard"}, [])
    return Objective(terms, student, teachers, seed).double()


class Bench:
    """Student, teacher and one term, in float64, in the layout that is set up.

    Args:
        name: of the method.
        sp: sequence parallelism.
        recompute: ``full``, ``selective`` or none.
        seed: of the method's own parameters.
        ahead: how far teachers may be ahead.
    """

    def __init__(
        self,
        name: str,
        sp: bool = False,
        recompute: str | None = None,
        seed: int = 5,
        ahead: Bounds = OFF,
    ) -> None:
        self.objective = fitting(name, seed)
        config = _config({**STUDENT, "activations_checkpoint_granularity": recompute}, sp)
        possible = self.objective.possible_parts()
        self.teachers = {}
        for number, (key, shape) in enumerate(self.objective.teachers.items()):
            beside = self.objective.possible_replacements().get(key)
            split = place_teacher(key, possible, config.split, shape.layers, beside)
            sizes = {"num_layers": shape.layers, "hidden_size": shape.hidden}
            sizes["num_attention_heads"] = shape.heads
            self.teachers[key] = Teacher(_model(_config(sizes, sp, split), sizes, seed=10 + number))
        self.student = _model(config, STUDENT, seed=2)
        self.student.add_module("distill", self.objective)
        self.step = DistillationStep(config, self.objective, self.teachers, ahead)
        self.student.train()
        self.context = self._busiest()
        self._all_parts = self.objective.parts

    def _busiest(self) -> StepContext:
        """The step of a short run in which the method has most parts."""

        def parts(context: StepContext) -> int:
            try:
                return len(self.objective.parts(context))
            except ValueError:  # the method is done by then
                return 0

        contexts = [StepContext(step=s, max_steps=STEPS, seed=3) for s in range(0, STEPS, 2)]
        return max(contexts, key=parts)

    def only(self, part: str | None) -> None:
        """Lets the objective be one part, or all again (``None``)."""

        def one(context: StepContext) -> list[WeightedPart]:
            found = self._all_parts(context)
            return [dataclasses.replace(p, weight=1.0) for p in found if p.name == part]

        self.objective.parts = self._all_parts if part is None else one  # type: ignore[method-assign]

    def prepare(self, rows: list[int]) -> None:
        """The passes of a step before the last, which may leave something for it."""
        for number in range(self.objective.passes - 1):
            self._forward(number, rows)[0].backward()
        self.student.zero_grad()

    def loss(self, rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        """The last pass of a step, forward only, without DDP: the loss, and all values.

        What the method keeps between steps stays as it was.
        """
        kept = [buffer.clone() for buffer in self.objective.buffers()]
        noted = [(notes, dict(notes)) for notes in self._notes()]
        found = self._forward(self.objective.passes - 1, rows)
        for buffer, before in zip(self.objective.buffers(), kept, strict=True):
            buffer.copy_(before)
        for notes, before in noted:
            notes.update(before)
        return found

    def _notes(self) -> list[dict[Any, Any]]:
        """What methods keep from one pass of a step for the next."""
        own = vars(nn.Module())
        of_methods = [vars(method).items() for method in self.objective.methods.values()]
        return [v for found in of_methods for k, v in found if isinstance(v, dict) and k not in own]

    def _forward(self, number: int, rows: list[int]) -> tuple[Tensor, dict[str, float]]:
        self.step.start(dataclasses.replace(self.context, forward_pass=number), 1)
        output, reduce = self.step(iter([batch(rows)]), self.student)
        loss: Tensor = reduce(output)[0]
        return loss, {name: float(value) for name, value in self.step.finish().items()}

    def run(self, samples: list[list[int]]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """A step through Megatron-Core's schedule and DDP, a micro-batch per list of samples.

        Returns:
            Values by part, and whole gradients of the student and the method.
        """
        ddp = DistributedDataParallel(
            self.student.config, DistributedDataParallelConfig(), self.student
        )
        batches = [batch(rows) for rows in samples]
        ddp.zero_grad_buffer()
        found = run_passes(self.step, Pass(self.context, batches), [ddp])
        sum_over_stages(self.objective)
        finalize_model_grads([ddp])
        return {name: float(v) for name, v in found.items()}, whole_gradients(self.student)

    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [p for p in self.student.parameters() if p.requires_grad]


def against_differences(name: str, directions: int = 3, step: float = 1e-6) -> dict[str, float]:
    """By part, how far its gradient is from central differences along random directions.

    Returns:
        The largest difference, relative to what such a direction shows on average.
    """
    bench, rows = Bench(name), list(range(SAMPLES))
    bench.prepare(rows)
    generator = torch.Generator().manual_seed(4)
    origin = [p.detach().clone() for p in bench.parameters()]
    slopes: list[tuple[list[Tensor], dict[str, float]]] = []
    for _ in range(directions):
        d = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in origin]
        values = []
        for sign in (1, -1):
            _move(bench, origin, d, sign * step)
            values.append(bench.loss(rows)[1])
        slopes.append((d, {n: (values[0][n] - values[1][n]) / (2 * step) for n in values[0]}))
    _move(bench, origin, origin, 0.0)
    return {
        part: _worst(_gradient(bench, part, rows), [(d, s[part]) for d, s in slopes])
        for part in slopes[0][1]
        if part != "loss"
    }


@torch.no_grad()
def _move(bench: Bench, origin: list[Tensor], direction: list[Tensor], by: float) -> None:
    for p, start, d in zip(bench.parameters(), origin, direction, strict=True):
        p.copy_(start + by * d)


def _gradient(bench: Bench, part: str, rows: list[int]) -> list[Tensor]:
    bench.only(part)
    parameters = bench.parameters()
    found = torch.autograd.grad(bench.loss(rows)[0], parameters, allow_unused=True)
    bench.only(None)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _worst(gradient: list[Tensor], slopes: list[tuple[list[Tensor], float]]) -> float:
    norm = float(torch.stack([g.norm() for g in gradient]).norm())
    assert norm > 0, "a part without gradient"
    along = [
        sum(float((g * d).sum()) for g, d in zip(gradient, ds, strict=True)) for ds, _ in slopes
    ]
    return max(abs(a - s) for a, (_, s) in zip(along, slopes, strict=True)) / norm


def _shape(sizes: dict[str, int]) -> ModelShape:
    layers, hidden, heads = sizes["num_layers"], sizes["hidden_size"], sizes["num_attention_heads"]
    return ModelShape(layers, hidden, heads, VOCAB)


def _config(sizes: dict[str, Any], sp: bool, split: list[int] | None = None) -> GLMConfig:
    parallel = {
        "tensor_model_parallel_size": parallel_state.get_tensor_model_parallel_world_size(),
        "pipeline_model_parallel_size": parallel_state.get_pipeline_model_parallel_world_size(),
        "sequence_parallel": sp,
    }
    fixed = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "transformer_engine": False}
    fixed |= {"max_position_embeddings": SEQUENCE, "make_vocab_size_divisible_by": 8}
    config = glm_config_from_cfg({**sizes, **fixed}, VOCAB, parallel=parallel, split=split)
    config.params_dtype = config.pipeline_dtype = torch.float64
    return config


def _model(config: GLMConfig, sizes: dict[str, Any], seed: int) -> GLMModel:
    first, last = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
    model = GLMModel(config, pre_process=first, post_process=last).double()
    load_whole(model, from_original(_weights(sizes, seed), sizes["num_attention_heads"]))
    return model


def _weights(sizes: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """Whole weights under original names, the same in every layout."""
    h, generator = sizes["hidden_size"], torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "word_embeddings.weight": (VOCAB, h),
        "transformer.position_embeddings.weight": (SEQUENCE + 1, h),
        "transformer.block_position_embeddings.weight": (SEQUENCE + 1, h),
    }
    norms = ["transformer.final_layernorm"]
    for i in range(sizes["num_layers"]):
        layer = f"transformer.layers.{i}"
        norms += [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"]
        linear = {"attention.query_key_value": (3 * h, h), "attention.dense": (h, h)}
        linear |= {"mlp.dense_h_to_4h": (4 * h, h), "mlp.dense_4h_to_h": (h, 4 * h)}
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    shapes |= {f"{norm}.{kind}": (h,) for norm in norms for kind in ("weight", "bias")}
    drawn = {
        name: 0.25 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    scales = {f"{norm}.weight": 1 + drawn[f"{norm}.weight"] for norm in norms}
    return {**drawn, **scales}


def batch(rows: list[int]) -> dict[str, Tensor]:
    """Some of four samples: a context, a span of 4 to 6 tokens to be predicted, padding."""
    generator = torch.Generator().manual_seed(6)
    contexts, spans = torch.tensor([7, 8, 6, 9]), torch.tensor([5, 4, 6, 5])
    place = torch.arange(SEQUENCE).expand(SAMPLES, -1)
    in_span = (place >= contexts[:, None]) & (place < (contexts + spans)[:, None])
    real = place < (contexts + spans)[:, None]
    ids = torch.randint(1, VOCAB, (2, SAMPLES, SEQUENCE), generator=generator) * real
    position = torch.where(in_span, contexts[:, None] // 2, place) * real
    block = (place - contexts[:, None] + 1) * in_span
    whole = {
        "input_ids": ids[0],
        "position_ids": torch.stack([position, block], 1),
        "attention_mask": contexts,
        "labels": ids[1],
        "loss_mask": in_span.double(),
    }
    return {name: value[rows] for name, value in whole.items()}
