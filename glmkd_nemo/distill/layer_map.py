"""Which teacher layer a student layer is compared with."""

from __future__ import annotations


def uniform_segments(teacher_layers: int, student_layers: int) -> list[int]:
    """Ends of the teacher's segments, one per student layer, as even as can be.

    The teacher is cut into ``student_layers`` runs whose longest is as short as possible, longer
    runs first. Returns ``[0, e_1, ..., teacher_layers]``: student layer ``i`` ends where teacher
    layer ``e_{i+1} - 1`` ends. This is TinyBERT's map, and GLMKD's for uneven depths.

    Raises:
        ValueError: the teacher is shallower than the student.
    """
    _refuse_shallow_teacher(teacher_layers, student_layers)
    longest = -(-teacher_layers // student_layers)
    ends = [0]
    for later in range(student_layers - 1, -1, -1):
        ends.append(ends[-1] + min(longest, teacher_layers - ends[-1] - later))
    return ends


def skip(teacher_layers: int, student_layers: int) -> list[int]:
    """Every ``t // s``-th teacher layer; the remainder is dropped (PKD and others).

    Returns ``[0, k, 2k, ..., student_layers * k]``.

    Raises:
        ValueError: the teacher is shallower than the student.
    """
    _refuse_shallow_teacher(teacher_layers, student_layers)
    stride = teacher_layers // student_layers
    return [i * stride for i in range(student_layers + 1)]


def _refuse_shallow_teacher(teacher_layers: int, student_layers: int) -> None:
    if teacher_layers < student_layers:
        raise ValueError(
            f"the teacher has {teacher_layers} layers, the student {student_layers}: a layer map "
            "needs a teacher at least as deep; use a method without layers (glmd, kd) instead."
        )
