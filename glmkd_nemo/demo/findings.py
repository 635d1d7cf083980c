"""The numbers of a run in plain words: what was seen, and no more than that."""

from __future__ import annotations

from glmkd_nemo.demo.results import Results, Row

# Nats. Below this a difference of one run is called none: another seed can move it as much.
NEGLIGIBLE = 0.02


def compare(row: Row, scratch: Row, teacher: Row) -> str:
    """One sentence on a distilled student against the same student trained without a teacher."""
    gain = scratch.loss - row.loss
    points = 100 * (row.accuracy - scratch.accuracy)
    if abs(gain) < NEGLIGIBLE:
        verdict = f"ends where training without a teacher ends (difference {abs(gain):.3f} nats)"
    else:
        side = "lower" if gain > 0 else "higher"
        verdict = f"ends {abs(gain):.3f} nats {side} than training without a teacher"
    gap = scratch.loss - teacher.loss
    share = ""
    if gain >= NEGLIGIBLE and gap >= NEGLIGIBLE:
        share = f", which is {100 * gain / gap:.0f} % of the way to the teacher"
    return f"{row.label} {verdict}{share}; blank-filling accuracy {points:+.1f} points."


def cost(row: Row, scratch: Row) -> str:
    """One sentence on what the teacher's forward costs per step."""
    ratio = row.step_seconds / scratch.step_seconds
    return f"A step of {row.label} took {ratio:.1f} times a step without a teacher."


def describe(results: Results) -> list[str]:
    """Sentences of the report, in reading order.

    Raises:
        ValueError: fewer than two rows (the first is the teacher, the second from scratch).
    """
    if len(results.rows) < 2:
        raise ValueError("a report needs the teacher's row and the row of the student from scratch")
    teacher, scratch, *distilled = results.rows
    size = teacher.parameters / scratch.parameters
    lines = [
        f"The teacher has {size:.1f} times the parameters of the student and was trained for "
        f"{teacher.steps} steps; every student was trained for {scratch.steps} steps on the same "
        "batches in the same order.",
        f"Held-out loss: teacher {teacher.loss:.3f}, student without a teacher {scratch.loss:.3f}.",
    ]
    for row in distilled:
        lines += [compare(row, scratch, teacher), cost(row, scratch)]
    if results.candidates:
        lines.append(_on_candidates(results))
    lines.append(
        "One corpus, one seed, models of a size that trains in minutes: this shows that the parts "
        "work together and what they did here, not how the methods rank in general."
    )
    return lines


def _on_candidates(results: Results) -> str:
    chosen = next(c for c in results.candidates if c.chosen)
    text = (
        f"GLMD's split of its steps was chosen by loss on the validation text, out of "
        f"{len(results.candidates)}: {chosen.first} steps on the teacher's outputs alone, then "
        f"{chosen.second} with {chosen.second_kind}."
    )
    lengths = sorted(c.first for c in results.candidates)
    if lengths[0] != lengths[-1] and chosen.first in (lengths[0], lengths[-1]):
        end = "shortest" if chosen.first == lengths[0] else "longest"
        text += f" It has the {end} first stage of those tried."
    return text
