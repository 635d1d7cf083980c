"""The demo from text to report: stages in order, each skipped when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from glmkd_nemo.demo import facts, jobs
from glmkd_nemo.demo.corpus import prepare_corpus
from glmkd_nemo.demo.process import run_apart, warm_up
from glmkd_nemo.demo.results import Blank, Candidate, Curve, Results, Row
from glmkd_nemo.demo.settings import DemoSettings, ModelSettings
from glmkd_nemo.demo.stages import Stage, StageRunner

TRAINING = "glmkd_nemo.demo.training"
SECOND_STAGE = {"labels": "labels", "soft": "labels and the teacher at T = 1"}
Outcome = dict[str, Any]


class Demo:
    """One run of the demo.

    Args:
        settings: all of ``conf/demo.yaml``.
        say: prints a line for the user.
    """

    def __init__(self, settings: DemoSettings, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.say = say
        self.root = Path(settings.out).absolute()
        self.runner = StageRunner(self.root, self._announce)
        self.corpus = self.runner.folder("corpus")

    def _announce(self, name: str, skipped: bool) -> None:
        if skipped:
            self.say(f"  {name:<24} done before")
        elif name in ("corpus", "blanks"):
            self.say(f"  {name} ...")

    def _stage(
        self,
        name: str,
        spec: dict[str, Any],
        work: Callable[[Path], Outcome],
        after: tuple[str, ...] = (),
    ) -> Outcome:
        """Runs a stage and adds the seconds it took."""

        def timed(folder: Path) -> Outcome:
            started = time.monotonic()
            outcome = work(folder)
            return {**outcome, "stage_seconds": time.monotonic() - started}

        return self.runner.run(Stage(name, spec, timed, after))

    # ---- stages ---------------------------------------------------------------------------------

    def prepare(self) -> Outcome:
        """Text, tokenizer and indexed files."""
        s = self.settings
        spec = {
            "text": facts.identity(s.corpus),
            "vocab_size": s.vocab_size,
            "seq_length": s.seq_length,
        }

        def work(folder: Path) -> Outcome:
            data = jobs.data_section()
            return prepare_corpus(folder, s.corpus, s.vocab_size, data, s.seq_length)

        return self._stage("corpus", spec, work)

    def train(
        self,
        name: str,
        label: str,
        size: ModelSettings,
        terms: dict[str, Any] | None = None,
        teacher: str = "",
    ) -> Outcome:
        """One model: trained, saved as ``.nemo``, measured on validation and test text."""
        s, folder = self.settings, self.runner.folder(name)
        changes = jobs.pretraining(name, folder, self.corpus, size, s)
        if terms is not None:
            changes = jobs.distillation(changes, teacher, terms)

        def work(folder: Path) -> Outcome:
            outcome = run_apart(f"{TRAINING}.train", folder, label, changes, s.threads)
            for split in ("valid", "test"):
                outcome[split] = run_apart(
                    f"{TRAINING}.held_out",
                    outcome["nemo"],
                    self.corpus / split,
                    s.test_batches,
                    s.threads,
                )
            return dict(outcome)

        after = ("corpus",) if terms is None else ("corpus", "teacher")
        spec = {"config": changes, "test_batches": s.test_batches, "threads": s.threads}
        return self._stage(name, spec, work, after)

    def fill(self, blanks: list[list[str]], nemos: dict[str, str]) -> Outcome:
        """Each model's answers to the sentences, by the model's label."""
        texts = [text for text, _ in blanks]

        def work(folder: Path) -> Outcome:
            threads = self.settings.threads
            return {
                label: run_apart(f"{TRAINING}.answers", nemo, texts, threads)
                for label, nemo in nemos.items()
            }

        after = tuple(Path(nemo).parent.name for nemo in nemos.values())
        return self._stage("blanks", {"texts": texts, "models": list(nemos)}, work, after)

    # ---- all of it ------------------------------------------------------------------------------

    def run(self) -> Results:
        """Runs what is not done yet; the numbers of the report."""
        s = self.settings
        warm_up(TRAINING)
        corpus = self.prepare()
        share = corpus["target_share"]
        teacher = self.train("teacher", "teacher", s.teacher)
        learn = partial(self.train, size=s.student, teacher=teacher["nemo"])
        scratch = self.train("scratch", "student, labels only", s.student)
        kd = learn("kd", "student, KD", terms=jobs.kd_terms(s, share))
        tried: dict[tuple[int, str], Outcome] = {}
        for second in s.glmd.second:
            for first in s.glmd.first:
                label = f"student, GLMD {first}+{s.student.steps - first}"
                terms = jobs.glmd_terms(s, first, second, share)
                tried[first, second] = learn(f"glmd_{first}_{second}", label, terms=terms)
        best = min(tried, key=lambda key: tried[key]["valid"]["loss"])
        outcomes = {"teacher": teacher, "scratch": scratch, "kd": kd, "glmd": tried[best]}
        labels = self._labels()
        filled = self.fill(
            corpus["blanks"], {labels[name]: o["nemo"] for name, o in outcomes.items()}
        )
        everything = [corpus, teacher, scratch, kd, *tried.values(), filled]
        return Results(
            corpus=facts.on_corpus(corpus, s),
            settings=facts.on_settings(s),
            versions=facts.versions(),
            rows=[self._row(name, labels[name], o) for name, o in outcomes.items()],
            candidates=[self._candidate(key, o, key == best) for key, o in tried.items()],
            blanks=[
                Blank(text, truth, {label: filled[label][i] for label in labels.values()})
                for i, (text, truth) in enumerate(corpus["blanks"])
            ],
            seconds=sum(outcome["stage_seconds"] for outcome in everything),
            notes=facts.notes(s),
        )

    def _candidate(self, key: tuple[int, str], outcome: Outcome, chosen: bool) -> Candidate:
        first, second = key
        later = self.settings.student.steps - first
        return Candidate(first, later, SECOND_STAGE[second], outcome["valid"]["loss"], chosen)

    def _labels(self) -> dict[str, str]:
        t, s = self.settings.teacher, self.settings.student
        return {
            "teacher": f"teacher ({t.num_layers} x {t.hidden_size})",
            "scratch": f"student ({s.num_layers} x {s.hidden_size}), labels only",
            "kd": "student, KD",
            "glmd": "student, GLMD",
        }

    def _row(self, name: str, label: str, outcome: Outcome) -> Row:
        size = self.settings.teacher if name == "teacher" else self.settings.student
        test = outcome["test"]
        return Row(
            name,
            label,
            outcome["parameters"],
            size.steps,
            test["loss"],
            test["accuracy"],
            outcome["step_seconds"],
            Curve(outcome["steps"], outcome["losses"]),
        )
