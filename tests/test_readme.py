"""What the README says is there: files, targets, keys, and the method it shows."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from glmkd_nemo.distill.method import ModelShape, StepContext
from glmkd_nemo.distill.taps import check_keys

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", TEXT, re.S) if containing in b]
    assert len(found) == 1
    return found[0]


def test_the_method_shown_is_a_method(tmp_path: Path) -> None:
    source = tmp_path / "final_mse.py"
    source.write_text(block("python", "class FinalMSE"))
    spec = importlib.util.spec_from_file_location("final_mse", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shape = ModelShape(2, 8, 2)
    method = module.METHOD(module.METHOD.Config(), shape, shape)
    (part,) = method.parts(StepContext())
    check_keys([*part.student, *part.teacher], shape.layers)
    terms = yaml.safe_load(block("yaml", "final_mse"))["terms"]
    assert terms["final_mse"]["method"] == "final_mse"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:scripts|conf|glmkd_nemo)/[\w./]+", TEXT)))
)
def test_files_named_are_there(path: str) -> None:
    own_example = "final_mse" in path
    assert own_example or (ROOT / path.rstrip(".")).exists()


def test_targets_named_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", TEXT, re.M)):
        assert re.search(rf"^{''.join(target)}:", makefile, re.M), target
