"""Every option of the original's parsers is in the tables, and says what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.translate.given import dashed, read_options
from glmkd_nemo.translate.option import Table
from glmkd_nemo.translate.tables import AUTO_TUNE, LAUNCHER, PROGRAM

FACTS = Path(__file__).with_name("original_options.txt")
# attributes that the original's own readme gives as options, though its parser lacks them
_OF_A_README = {
    "erdistill_inter",
    "erdistill_inter_mse",
    "erdistill_wo_local",
    "erdistill_wo_global",
}


def facts() -> dict[str, dict[str, str]]:
    """Options of each parser by name, with their kind."""
    found: dict[str, dict[str, str]] = {}
    for line in FACTS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            parser, name, kind = line.split()
            found.setdefault(parser, {})[name] = kind
    return found


@pytest.mark.parametrize(
    ("parser", "table"), [("program", PROGRAM), ("auto_tune", AUTO_TUNE), ("launcher", LAUNCHER)]
)
def test_every_option_is_in_the_table(parser: str, table: Table):
    known = facts()[parser]
    assert len(known) > 30
    ours = {dashed(name): option.kind for name, option in table.items() if name not in _OF_A_README}
    assert ours == known


def test_several_hundreds():
    assert sum(len(options) for options in facts().values()) > 400


@pytest.mark.parametrize("table", [PROGRAM, AUTO_TUNE, LAUNCHER])
def test_every_fate_has_its_text(table: Table):
    for name, option in table.items():
        assert len(option.text) > 2, name
        assert option.fate == "mapped" or " " in option.text, f"{name}: a reason is a sentence"
        assert option.key is None or (option.fate == "mapped" and "." in option.key), name


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="no option --studnt_model; did you mean --student_model"):
        read_options(["--studnt_model=kd"], PROGRAM)
    with pytest.raises(ValueError, match="'3' belongs to no option"):
        read_options(["--lr=1", "3"], PROGRAM)
    with pytest.raises(ValueError, match="--lr: expected one argument"):
        read_options(["--lr"], PROGRAM)


def test_values_as_argparse_reads_them():
    given, left = read_options(
        ["--lr", "1e-5", "--fp16", "--train-data", "a", "b", "--hidden-size=1", "--hidden-size=2"],
        PROGRAM,
    )
    assert (given.of("lr"), given.of("hidden-size"), given["train-data"]) == (1e-5, 2, ["a", "b"])
    assert left == []
    assert "fp16" in given
    assert given.of("warmup") == 0.01
    assert given.notes("x") == []
