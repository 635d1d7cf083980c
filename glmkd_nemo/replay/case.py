"""A recorded case: a folder with ``case.json`` and ``tensors.safetensors``, in its collection."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import original_sizes
from glmkd_nemo.distill.methods import method_class
from glmkd_nemo.models.heads import HeadConfig
from glmkd_nemo.replay import flags as options
from glmkd_nemo.replay import tasks
from glmkd_nemo.replay.excluded import why_excluded
from glmkd_nemo.replay.flags import Setting, Translation
from glmkd_nemo.replay.flags.aggregators import PARAMETERS as AGGREGATOR_PARAMETERS
from glmkd_nemo.replay.flags.aggregators import PARTS as AGGREGATOR_PARTS
from glmkd_nemo.replay.flags.aggregators import aggregation
from glmkd_nemo.replay.flags.predictions import PARTS as PREDICTION_PARTS
from glmkd_nemo.replay.flags.predictions import prediction_terms
from glmkd_nemo.replay.flags.random_data import random_data
from glmkd_nemo.replay.vocab_maps import sizes_with_map


@dataclass(frozen=True)
class Case:
    """One folder. Values are read when asked for.

    Raises:
        ValueError: the folder is no case, by name.
    """

    folder: Path
    step: int | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """``case.json``; of a step: what was recorded of it and of the whole case."""
        path = self.folder / "case.json"
        if not path.is_file():
            raise ValueError(f"{self.folder} is no case: it has no case.json")
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded if self.step is None else {**loaded, **loaded.pop("steps")[self.step]}

    @property
    def name(self) -> str:
        """``collection/case``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def root(self) -> Path:
        """The folder that has ``models``, ``inputs`` and ``logits``."""
        return self.folder.parent.parent

    @property
    def excluded(self) -> str | None:
        """Why the case does not count, or ``None``."""
        return why_excluded(self.folder.name)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Recorded outputs and gradients."""
        found = load_file(self.folder / "tensors.safetensors")
        if self.step is None:
            return found
        prefix = f"step{self.step}/"
        own = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
        return {**{n: t for n, t in found.items() if not n.startswith("step")}, **own}

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """The batch, with the reference's names."""
        if self.record["inputs_file"].startswith("in/"):
            own = {n: t for n, t in self.tensors.items() if n.startswith("in/")}
            return {n.removeprefix("in/"): t for n, t in own.items()}
        return load_file(self.root / self.record["inputs_file"])

    @property
    def head(self) -> HeadConfig | None:
        """The task head of student and teachers, if they have one."""
        return tasks.head_of(self.record)

    @property
    def is_plain(self) -> bool:
        """Whether it is a forward and backward of a GLM alone, or of one with a head."""
        return self.folder.parent.name in ("glm", tasks.HEADS)

    @cached_property
    def flags(self) -> dict[str, Any]:
        """Options that define the distillation."""
        record = self.record
        given = options.parse([*record.get("flags", []), *record.get("student_extra_flags", [])])
        changed = record.get("args_differing_from_default", {})
        return {**{name: value for name, value in changed.items() if value is not False}, **given}

    @cached_property
    def setting(self) -> Setting:
        """The stage and sizes, on which the meaning of some options depends."""
        teachers = tuple(sizes["num_layers"] for _, sizes in self.teachers())
        stage, student = self.record["stage"], self.student()[1]["num_layers"]
        return Setting(stage, student, teachers, tasks.classes_of(self.inputs, self.head))

    @cached_property
    def translation(self) -> Translation:
        """How the case's student model is written here. Raises ``NotYet`` where it is not."""
        return options.translation_of(str(self.flags.get("student_model", "kd")))

    @cached_property
    def aggregation(self) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
        """The terms, and ``distill.aggregator``. Raises ``NotYet`` for an unknown option."""
        if self.is_plain:
            of = {"of": "classes"} if self.folder.parent.name == tasks.HEADS else {}
            return {"hard": {"method": "hard", **of}}, None
        predictions = prediction_terms(self.flags, self.setting)
        terms = self.translation.terms(self.flags, self.setting, predictions)
        if not self.several_teachers and not self.flags.get("multi_teacher_model"):
            return terms, None
        return aggregation(self.flags, self.setting, terms)

    @property
    def terms(self) -> dict[str, dict[str, Any]]:
        """The objective."""
        return self.aggregation[0]

    @property
    def several_teachers(self) -> bool:
        """Whether there is more than one."""
        return len(self.record.get("teacher_model_files", [])) > 1

    @cached_property
    def steps(self) -> list[Case]:
        """The case's steps, made one after the other on the same objects; itself, if it is one."""
        if "steps" not in self.record:
            return [self]
        return [Case(self.folder, number) for number in range(len(self.record["steps"]))]

    @property
    def random_data(self) -> dict[str, Any] | None:
        """``distill.random_data``: how inputs are perturbed."""
        return None if self.is_plain else random_data(self.flags)

    def student(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The student's weights (original names) and sizes."""
        key = "model_file" if self.is_plain else "student_model_file"
        argv = options.parse(self.record["argv" if self.is_plain else "full_argv"])
        shared = argv["num-layers"] if "cross_layer_parameter_sharing" in argv else None
        return self._model(self.record[key], argv["num-attention-heads"], shared)

    def teachers(self) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
        """The teachers' weights and sizes."""
        files = self.record.get("teacher_model_files", [])
        if not files:
            return []
        argv = options.parse(self.record["full_argv"])
        heads = str(argv.get("mt_num_attention_heads") or "").split(":")
        if not all(heads) or len(heads) != len(files):
            heads = [str(argv["teacher_num_attention_heads"])] * len(files)
        return [self._model(file, n) for file, n in zip(files, heads, strict=True)]

    def _model(
        self, file: str, heads: Any, shared: Any = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = load_file(self.root / file)
        sizes = original_sizes(state, shared_layers=None if shared is None else int(shared))
        own = {"num_attention_heads": int(heads), **sizes_with_map(self.root, file)}
        return state, {**sizes, **own}

    def logits(self) -> dict[str, Tensor]:
        """Recorded logits: of the ``student``, and of each teacher as ``t0`` and so on."""
        if self.is_plain:
            return {"student": self.tensors["out/logits"]}
        files = {"student": self.record["student_logits_file"][0]}
        teachers = self.record.get("teacher_logits_files")
        if teachers and teachers[0][0] is not None:  # a teacher that did not run has none
            files["t0"] = teachers[0][0]
        return {who: load_file(self.root / file)["logits"] for who, file in files.items()}

    @cached_property
    def drawn_layers(self) -> list[list[int]]:
        """Teacher layers whose input layernorm was tapped, by teacher: the random draw made."""
        hooks = self.record.get("teacher_hooks", [[{}]])[0]
        layers = [(hook or {}).get("transformer", {}).get("layers", {}) for hook in hooks]
        return [sorted(int(i) for i, n in x.items() if "layernorm_output" in n) for x in layers]

    def extra_parameters(self) -> dict[str, Tensor]:
        """The methods' own parameters, under our names inside the objective."""
        prefix = "extra_param/"
        return {
            self.our_parameter(name.removeprefix(prefix)): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def our_parameter(self, original: str) -> str:
        """Our name of a method's parameter: ``student.fit_dense.weight`` and the like.

        Raises:
            ValueError: the translation of this student model does not know it.
        """
        name = original.removeprefix("student.")
        if found := options.matched(name, AGGREGATOR_PARAMETERS):
            ours = found[0].expand(found[1])
        elif found := options.matched(name, self.translation.parameters):
            ours = f"methods.{found[0].expand(found[1])}"
        else:
            raise ValueError(f"{self.name}: no parameter of ours stands for {original!r}")
        return ours if self.several_teachers else ours.replace("@t0", "")

    def original_parameter(self, ours: str) -> str:
        """The original name of a method's parameter; the inverse of :meth:`our_parameter`."""
        prefix = "extra_param/"
        for name in self.tensors:
            if name.startswith(prefix):
                original = name.removeprefix(prefix)
                if self.our_parameter(original) == ours:
                    return original
        return ours

    def our_part(self, component: str) -> tuple[str, bool, float] | None:
        """Our part behind a logged component, whether its weight is in the logged value, and the
        factor in that weight which is not."""
        name, suffix, repeat, times = component, "", "", 0
        if match := re.fullmatch(r"(.+?)_t(\d+)(_repeat(\d+).*)?", component):
            name, suffix, repeat = match[1], f"@t{match[2]}", match[3] or ""
            times = int(match[4] or 0)
        if "ignore_first_backward_gard" in self.flags:  # only the last pass counts
            if not name.startswith("multi_teacher") and times < int(
                self.flags["forward_repeat_num"]
            ):
                return None
            repeat, times = "", 0
        parts = {**PREDICTION_PARTS, **AGGREGATOR_PARTS, **self.translation.parts}
        found = options.matched(name + repeat, parts)
        if found is None and times:  # the same parts, on data seen again
            found = options.matched(name, parts)
            suffix += f"~{times}" if found else ""
        if found is None:
            return None
        term, _, part = found[0].expand(found[1].part).partition("/")
        without = 1.0 if found[1].term_weighted else self.terms[term].get("weight", 1.0)
        if found[1].without is not None:
            without *= found[1].without(self.flags) or 1.0  # a term of weight 0 is left out
        if name == "multi_teacher_model/hard_loss" and self.aggregation[1] is not None:
            without /= 1 - self.aggregation[1].get("alpha", 0.0)  # RL-KD logs it weighted
        if self.aggregation[1] is not None and term in self.terms:
            of_teacher = method_class(self.terms[term]["method"]).needs_teacher
            term += suffix.partition("~")[0] if of_teacher else ""
        again = "~" + suffix.partition("~")[2] if "~" in suffix else ""
        return f"{term}/{part}{again}", found[1].weighted, without
