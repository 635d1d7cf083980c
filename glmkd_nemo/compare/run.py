"""Trains one student per recipe, each a stage that is skipped when it is done."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmkd_nemo.compare import recipes
from glmkd_nemo.compare.recipes import Entry
from glmkd_nemo.compare.results import Comparison, Row
from glmkd_nemo.compare.settings import CompareSettings
from glmkd_nemo.demo import facts, jobs
from glmkd_nemo.demo.process import StageFailedError, run_apart, warm_up
from glmkd_nemo.demo.run import TRAINING, Demo
from glmkd_nemo.demo.settings import DemoSettings, ModelSettings
from glmkd_nemo.demo.stages import Stage, StageRunner

Outcome = dict[str, Any]
SCRATCH, LABELS = "scratch", "labels only"


class Compare:
    """One comparison.

    Args:
        settings: of the comparison.
        demo: of the demo, whose text and teacher are used, and made where they are not there.
        say: prints a line for the user.
    """

    def __init__(
        self, settings: CompareSettings, demo: DemoSettings, say: Callable[[str], None]
    ) -> None:
        self.settings, self.say = settings, say
        self.demo = Demo(demo, say)
        narrow = dataclasses.replace(demo.student, steps=settings.steps)
        wide = dataclasses.replace(narrow, hidden_size=demo.teacher.hidden_size)
        self.students = [narrow, wide]
        self.sizes = dataclasses.replace(demo, batch_size=settings.batch_size)
        self.runner = StageRunner(Path(settings.out).absolute(), self._announce)
        self.teachers: dict[str, Outcome] = {}
        self._began, self._anew = time.monotonic(), 0
        self._after: dict[str, str] = {}

    def _announce(self, name: str, skipped: bool) -> None:
        self._anew += not skipped
        if skipped:
            self.say("  done before")

    def _time_left(self, recipes_left: int) -> str:
        if not self._anew:
            return ""
        seconds = (time.monotonic() - self._began) / self._anew * recipes_left
        return f", about {max(seconds / 60, 1):.0f} min left"

    def run(self, chosen: list[Entry]) -> Comparison:
        """Trains what is not done yet.

        Raises:
            ValueError: text or settings that cannot work.
            KeyboardInterrupt: Ctrl-C; the same call goes on.
        """
        warm_up(TRAINING)
        self._prepare(several=any(entry.group == "aggregator" for entry in chosen))
        scratch = [self._baseline(self.students[0])]
        rows, refused = [], {}
        self._began, self._anew = time.monotonic(), 0
        for number, entry in enumerate(chosen, 1):
            left = self._time_left(len(chosen) - number + 1)
            self.say(f"{number} of {len(chosen)}: {entry.label}{left}")
            try:
                rows.append(self._recipe(entry))
            except (ValueError, StageFailedError) as error:
                refused[entry.label] = str(error)
                self.say(f"  not trained: {error}")
        if any(row.student != scratch[0].student for row in rows):
            scratch.append(self._baseline(self.students[1]))
        t = self.demo.settings.teacher
        teacher = _row("teacher", t, "hard", self.teachers["t0"])
        return Comparison(teacher, scratch, rows, refused, self._facts())

    def _baseline(self, size: ModelSettings) -> Row:
        name = SCRATCH if size == self.students[0] else f"{SCRATCH}_wide"
        return _row(LABELS, size, "hard", self._trained(name, LABELS, size, None))

    def _prepare(self, several: bool) -> None:
        """Text and teachers, of the demo's folder."""
        self.share = float(self.demo.prepare()["target_share"])
        self._depends_on("corpus")
        first = self.demo.train("teacher", "teacher", self.demo.settings.teacher)
        self.teachers = {"t0": first}
        self._depends_on("teacher")
        if several:
            size = self.settings.second_teacher
            self.teachers["t1"] = self.demo.train("second_teacher", "second teacher", size)
            self._depends_on("second_teacher")

    def _depends_on(self, stage: str) -> None:
        record = self.demo.runner.record(stage, "done").read_text(encoding="utf-8")
        self._after[stage] = json.loads(record)["fingerprint"]

    def _recipe(self, entry: Entry) -> Row:
        """Trains one recipe."""
        s, names = self.settings, ["t0", "t1"] if entry.group == "aggregator" else ["t0"]
        sizes = {"t0": self.demo.settings.teacher, "t1": s.second_teacher}
        shapes = {name: self._shape(sizes[name]) for name in names}
        students = [self._shape(size) for size in self.students]
        read = run_apart(f"{recipes.__name__}.read", entry, s.options, students, shapes)
        distill, size = read["distill"], self.students[read["student"]]
        if not read["predicts"]:
            later = jobs.kd_terms(self.demo.settings, self.share)
            distill["terms"] = recipes.in_two_stages(distill["terms"], s.first_stage, later)
        outcome = self._trained(entry.key, entry.label, size, distill, names)
        return _row(entry.label, size, _words(distill["terms"]), outcome)

    def _shape(self, size: ModelSettings) -> tuple[int, ...]:
        vocabulary = self.demo.settings.vocab_size
        return size.num_layers, size.hidden_size, size.num_attention_heads, vocabulary

    def _trained(
        self,
        name: str,
        label: str,
        size: ModelSettings,
        distill: dict[str, Any] | None,
        teachers: list[str] | None = None,
    ) -> Outcome:
        """One student: trained and measured on the test text."""
        s, corpus = self.sizes, self.demo.corpus
        changes = jobs.pretraining(name, self.runner.folder(name), corpus, size, s)
        if distill is not None:
            paths = {t: {"restore_from_path": self.teachers[t]["nemo"]} for t in teachers or []}
            changes["model"] |= {"teachers": paths, "distill": distill}

        def work(folder: Path) -> Outcome:
            outcome = run_apart(f"{TRAINING}.train", folder, label, changes, s.threads)
            held_out = (outcome["nemo"], corpus / "test", s.test_batches, s.threads)
            return {**outcome, "test": run_apart(f"{TRAINING}.held_out", *held_out)}

        used = {"corpus": self._after["corpus"]}
        for teacher in teachers or []:
            stage = {"t0": "teacher", "t1": "second_teacher"}[teacher]
            used[stage] = self._after[stage]
        spec = {"config": changes, "after": used, "test_batches": s.test_batches}
        return self.runner.run(Stage(name, {**spec, "threads": s.threads}, work))

    def _facts(self) -> dict[str, str]:
        d, s = self.demo.settings, self.settings
        return {
            "text": d.corpus or "CPython's documentation",
            "steps of a student": str(s.steps),
            "batch": f"{s.batch_size} windows of {d.seq_length} positions",
            "teacher": f"{_size(d.teacher)}, {d.teacher.steps} steps",
            "second teacher": f"{_size(s.second_teacher)}, {s.second_teacher.steps} steps",
            "seed": str(d.seed),
            **facts.versions(),
        }


def _size(size: ModelSettings) -> str:
    return f"{size.num_layers} x {size.hidden_size}"


def _row(label: str, size: ModelSettings, learns: str, outcome: Outcome) -> Row:
    test = outcome["test"]
    numbers = (test["loss"], test["accuracy"], outcome["step_seconds"])
    return Row(label, _size(size), learns, *numbers)


def _words(terms: dict[str, dict[str, Any]]) -> str:
    """``tinybert, then kd, hard``."""
    first = [t["method"] for n, t in terms.items() if not n.startswith("then_")]
    later = [t["method"] for n, t in terms.items() if n.startswith("then_")]
    unique = [", ".join(dict.fromkeys(names)) for names in (first, later) if names]
    return ", then ".join(unique)
