"""Trainable modules that make hidden states of student and teacher comparable."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.method import Method, ModelShape

PROJECTED = ("none", "student", "teacher")


class Aligned(Method):
    """Base of methods that compare hidden states, both brought to one size by :meth:`align`.

    Both steps are optional: LayerNorms of the method's own, of which the student's is trained (one
    for all teachers of a term, applied once for the first, twice for the second and so on, as in
    GLMKD) and the teacher's stays as it is; then a linear projection of one side to the other's
    size, the same for all layers.

    Args:
        config, student, teacher: as for every method.
        project: whose states are projected: ``none``, ``student`` or ``teacher``.
        fix_layernorm: whether there are LayerNorms.
        remedy: what to advise where sizes differ and nothing is projected.

    Raises:
        ValueError: an unknown ``project``, or different sizes without one.
    """

    shared: ClassVar[tuple[str, ...]] = ("layernorm",)
    teacher: ModelShape

    def __init__(
        self,
        config: Any,
        student: ModelShape,
        teacher: ModelShape,
        project: str = "none",
        fix_layernorm: bool = False,
        remedy: str = "set project=student or project=teacher",
    ) -> None:
        super().__init__(config, student, teacher)
        name, s, t = type(self).__name__, student.hidden, teacher.hidden
        if project not in PROJECTED:
            raise ValueError(f"{name}: project {project!r} is unknown: {', '.join(PROJECTED)}.")
        if project == "none" and s != t:
            raise ValueError(
                f"{name} compares hidden states, but the student's have {s} dimensions and the "
                f"teacher's {t}: {remedy}."
            )
        self.project = project
        self.layernorm = nn.LayerNorm(s) if fix_layernorm else nn.Identity()
        self.t_layernorm = nn.LayerNorm(t) if fix_layernorm else nn.Identity()
        self.t_layernorm.requires_grad_(False)
        if project != "none":
            self.fit_dense = nn.Linear(s, t) if project == "student" else nn.Linear(t, s)

    def align(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., h]`` of either model -> both in one size, in fp32 or better."""
        s, t = student, _through(self.t_layernorm, teacher)
        for _ in range(self.place[0] + 1):  # as in GLMKD: once more for every further teacher
            s = _through(self.layernorm, s)
        if self.project == "student":
            s = _through(self.fit_dense, s)
        elif self.project == "teacher":
            t = _through(self.fit_dense, t)
        return at_least_fp32(s), at_least_fp32(t)


def _through(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)``, where ``x`` may come from a model of another precision."""
    weight = getattr(module, "weight", None)
    found: Tensor = module(x if weight is None else x.to(weight.dtype))
    return found
