"""What the README says is there: files, targets, keys, and the method it shows."""

import re
from pathlib import Path

import pytest
import yaml

from glmkd_nemo.distill.new_method import write_method

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", TEXT, re.S) if containing in b]
    assert len(found) == 1
    return found[0]


def test_the_method_shown_is_what_the_script_writes(tmp_path: Path) -> None:
    method, recipe, _ = write_method("my_method", tmp_path)
    assert method.read_text().endswith(block("python", "class MyMethod"))
    shown = yaml.safe_load(block("yaml", "my_method"))["terms"]
    assert shown == yaml.safe_load(recipe.read_text())["terms"]


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:scripts|conf|glmkd_nemo)/[\w./]+", TEXT)))
)
def test_files_named_are_there(path: str) -> None:
    own_example = "my_method" in path
    assert own_example or (ROOT / path.rstrip(".")).exists()


def test_targets_named_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", TEXT, re.M)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target
