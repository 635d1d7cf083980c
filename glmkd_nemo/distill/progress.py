"""Progressive training: layers join one after the other, from the bottom."""

from __future__ import annotations

from glmkd_nemo.distill.attention_losses import attention_kl
from glmkd_nemo.distill.layer_choice import PairLoss, pair_parts, state
from glmkd_nemo.distill.layer_map import uniform_segments
from glmkd_nemo.distill.method import Method, ModelShape, Part, StepContext


def stage_at(step: int, steps: int, layers: int) -> int:
    """The stage of a step, where each of ``layers`` stages gets an equal share of training.

    In stage ``k`` the first ``k`` layers are trained; the last stage, ``layers + 1``, comes after
    all of them. As in GLMKD the step at which a share is over still belongs to its stage: with 100
    steps and 2 layers, stage 2 begins at step 35 and stage 3 at step 68. It is a function of the
    step alone, so that there is no state to keep, and a step is an optimizer step.

    Args:
        step: optimizer steps done.
        steps: those over which the shares are measured out.
        layers: of the student.

    Returns:
        1 to ``layers + 1``.
    """
    return min(max(1 + (step - 1) * (layers + 1) // max(steps, 1), 1), layers + 1)


def share_is_over(step: int, steps: int, layers: int, stage: int) -> bool:
    """Whether the share of ``stage`` ends with this step, as :func:`stage_at` counts it."""
    return step * (layers + 1) >= steps * stage


class Progressive(Method):
    """Base of methods that go through stages. They define ``stage_of`` and ``parts_in``.

    Raises:
        ValueError: student and teacher differ in hidden size or number of heads.
    """

    teacher: ModelShape

    def __init__(self, config: object, student: ModelShape, teacher: ModelShape) -> None:
        super().__init__(config, student, teacher)
        if (student.hidden, student.heads) != (teacher.hidden, teacher.heads):
            raise ValueError(
                f"{type(self).__name__} compares hidden states and attention as they are, but the "
                f"student has hidden size {student.hidden} and {student.heads} heads, the teacher "
                f"{teacher.hidden} and {teacher.heads}: choose equal ones, or a method that "
                "projects (tinybert)."
            )

    def stage_of(self, context: StepContext) -> int:
        """The stage of a step, 1 to ``layers + 1``."""
        raise RuntimeError(f"{type(self).__name__} must define stage_of()")

    def parts_in(self, stage: int) -> list[Part]:
        """The parts of a stage."""
        raise RuntimeError(f"{type(self).__name__} must define parts_in()")

    def parts(self, context: StepContext) -> list[Part]:
        """Those of the step's stage."""
        return self.parts_in(self.stage_of(context))

    def possible_parts(self) -> list[Part]:
        """Those of the stage in which the last layer has joined."""
        return self.parts_in(self.student.layers)

    def done(self, context: StepContext) -> bool:
        """Whether all layers have had their turn."""
        return self.stage_of(context) > self.student.layers

    def attention(self, layers: int) -> list[Part]:
        """``attention_scores.i``: KL of attention, of the first ``layers`` layers."""
        ends = uniform_segments(self.teacher.layers, self.student.layers)[1 : layers + 1]
        pairs = [(("scores", i), ("scores", end - 1)) for i, end in enumerate(ends)]
        return pair_parts("attention_scores", attention_kl, pairs)

    def hidden(self, states: range, loss: PairLoss, suffix: str = "") -> list[Part]:
        """``hidden_states.i``, from 0, of these states, see :mod:`~.layer_choice`."""
        n, m = self.student.layers, self.teacher.layers
        ends = uniform_segments(m, n)
        pairs = [(state(k, n, suffix), state(ends[k], m, suffix)) for k in states]
        return pair_parts("hidden_states", loss, pairs)
