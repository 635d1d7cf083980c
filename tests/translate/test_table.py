"""Every option of the original's parsers is in the tables, and says what becomes of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import glmkd_nemo
from glmkd_nemo.translate.given import dashed, read_options
from glmkd_nemo.translate.option import Table
from glmkd_nemo.translate.tables import AUTO_TUNE, LAUNCHER, PROGRAM

ROOT = Path(glmkd_nemo.__file__).parent
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
    assert len(known) >= 30
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


def patterns() -> list[str]:
    """Texts in the code that reads options, those with gaps as regular expressions."""
    sources = [*ROOT.glob("translate/*.py"), *ROOT.glob("replay/flags/**/*.py")]
    found = []
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
                if len("".join(p for p in parts if p)) >= 3:
                    found.append("".join(".+" if p is None else re.escape(p) for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.escape(node.value))
    return found


def test_mapped_options_are_read_by_code():
    known = re.compile("|".join(patterns()))
    for table in (PROGRAM, AUTO_TUNE):
        for name, option in table.items():
            if option.fate == "mapped" and option.key is None:
                assert known.fullmatch(name), f"nothing reads --{name}"


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
