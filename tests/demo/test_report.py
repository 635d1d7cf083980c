"""The report: sentences that follow from the numbers, a page that stands alone."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from glmkd_nemo.demo.findings import compare, describe
from glmkd_nemo.demo.report import write_report
from glmkd_nemo.demo.results import Blank, Candidate, Curve, Results, Row


def row(name: str, loss: float, accuracy: float = 0.2, seconds: float = 0.1) -> Row:
    curve = Curve([100, 200, 300], [loss + 1.0, loss + 0.2, loss])
    return Row(name, name.title(), 1000, 300, loss, accuracy, seconds, curve)


def results() -> Results:
    return Results(
        corpus={"text": "a < b & c"},
        settings={"seed": "1234"},
        versions={"torch": "2.13.0"},
        rows=[
            row("teacher", 4.5, 0.3),
            row("scratch", 4.8),
            row("kd", 4.7, 0.22, 0.15),
            row("glmd", 4.9, 0.19, 0.2),
        ],
        candidates=[
            Candidate(60, 240, "labels", 4.9, True),
            Candidate(150, 150, "labels", 5.0, False),
        ],
        blanks=[Blank("A [MASK] <b>.", "list", {"teacher": "string", "kd": "the"})],
        seconds=321.0,
        notes=["<script>alert(1)</script>"],
    )


class Page(HTMLParser):
    """Collects the images, the outside references and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_results_survive_the_disk(tmp_path: Path) -> None:
    results().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results()


def test_the_page_stands_alone_and_escapes(tmp_path: Path) -> None:
    write_report(results(), tmp_path / "report.html")
    page = Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.sources)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    for value in ("4.500", "22.0 %", "150 ms", "1,000", "A [MASK] <b>.", "5.3 minutes"):
        assert value in page.text


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (4.7, r"0\.100 nats lower.*33 % of the way to the teacher"),
        (4.9, r"0\.100 nats higher than training without a teacher;"),
        (4.79, r"ends where training without a teacher ends"),
    ],
)
def test_sentences_follow_the_numbers(loss: float, words: str) -> None:
    text = compare(row("kd", loss), row("scratch", 4.8), row("teacher", 4.5))
    assert re.search(words, text), text


def test_no_share_of_a_gap_that_is_not_there() -> None:
    text = compare(row("kd", 4.7), row("scratch", 4.8), row("teacher", 4.81))
    assert "%" not in text


def test_a_choice_at_the_end_of_what_was_tried_is_named() -> None:
    assert any("the shortest first stage of" in line for line in describe(results()))


def test_a_report_needs_teacher_and_scratch() -> None:
    lonely = Results({}, {}, {}, [row("teacher", 4.5)], [], [], 1.0)
    with pytest.raises(ValueError, match="from scratch"):
        describe(lonely)
