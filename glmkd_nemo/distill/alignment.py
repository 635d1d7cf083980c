"""Trainable modules that make hidden states of student and teacher comparable."""

from __future__ import annotations

from torch import Tensor, nn

from glmkd_nemo.distill.losses import at_least_fp32
from glmkd_nemo.distill.method import ModelShape

PROJECTED = ("none", "student", "teacher")


class Alignment(nn.Module):
    """Brings hidden states to one size: LayerNorms of its own, then a projection, both optional.

    Args:
        method: who asks, for messages.
        student, teacher: sizes of the models.
        project: whose states are projected to the other's size, ``none``, ``student`` or
            ``teacher``: one linear layer whatever the number of layers compared.
        fix_layernorm: whether states go through LayerNorms first, of which the student's is
            trained and the teacher's stays as it is.

    Raises:
        ValueError: an unknown ``project``, or different sizes without one.
    """

    def __init__(
        self,
        method: str,
        student: ModelShape,
        teacher: ModelShape,
        project: str = "none",
        fix_layernorm: bool = False,
        remedy: str = "set project=student or project=teacher",
    ) -> None:
        super().__init__()
        if project not in PROJECTED:
            raise ValueError(f"{method}: project {project!r} is unknown: {', '.join(PROJECTED)}.")
        s, t = student.hidden, teacher.hidden
        if project == "none" and s != t:
            raise ValueError(
                f"{method} compares hidden states, but the student's have {s} dimensions and the "
                f"teacher's {t}: {remedy}."
            )
        self.project = project
        self.layernorm = nn.LayerNorm(s) if fix_layernorm else nn.Identity()
        self.t_layernorm = nn.LayerNorm(t) if fix_layernorm else nn.Identity()
        self.t_layernorm.requires_grad_(False)
        if project != "none":
            self.fit_dense = nn.Linear(s, t) if project == "student" else nn.Linear(t, s)

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., h]`` of either model -> both in one size, in fp32 or better."""
        s, t = self.layernorm(student), self.t_layernorm(teacher)
        if self.project == "student":
            s = self.fit_dense(s)
        elif self.project == "teacher":
            t = self.fit_dense(t)
        return at_least_fp32(s), at_least_fp32(t)
