"""`scripts/new_method.py`: what it writes works at once; what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from glmkd_nemo.distill.new_method import next_steps, write_method

ROOT = Path(__file__).resolve().parents[2]
NAME = "brand_new"
METHOD_LINES = 80


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, where the script has written a method."""
    root = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__", "*.png", "golden", "data", "fixtures")
    for folder in ("glmkd_nemo/", "conf/", "scripts/", "tests/"):
        ignore = skipped if folder == "tests/" else shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", root)
    done = run(root, "scripts/new_method.py", NAME)
    assert done.returncode == 0, done.stderr
    assert f"tests/distill/test_{NAME}.py" in done.stdout
    assert f"test_kit.py -k {NAME}" in done.stdout
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=160,
        check=False,
    )


@pytest.mark.slow
def test_its_own_test_passes(copy: Path):
    done = run(copy, "-m", "pytest", f"tests/distill/test_{NAME}.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_kit_accepts_it(copy: Path):
    choice = f"{NAME} and (finite or strict)"
    done = run(copy, "-m", "pytest", "tests/distill/test_kit.py", "-k", choice)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_it_is_short_and_tidy(copy: Path):
    source = copy / "glmkd_nemo" / "distill" / "methods" / f"{NAME}.py"
    assert source.read_text().count("\n") <= METHOD_LINES
    files = [str(source), str(copy / "tests" / "distill" / f"test_{NAME}.py")]
    for command in (["check"], ["format", "--check"]):
        done = run(copy, "-m", "ruff", *command, *files)
        assert done.returncode == 0, done.stdout


def test_its_recipe_names_its_options(copy: Path):
    recipe = (copy / "conf" / "method" / f"{NAME}.yaml").read_text()
    assert recipe.startswith("# @package model.distill\n")
    terms = yaml.safe_load(recipe)["terms"]
    assert terms[NAME] == {"method": NAME, "weight": 1.0, "embedding": True}
    assert terms["hard"]["method"] == "hard"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MyMethod", "'MyMethod' cannot be the name of a method.* like my_method"),
        ("my-method", "like my_method"),
        ("2nd", "like my_method"),
        ("class", "'class' cannot be"),
        ("../evil", "'../evil' cannot be"),
        ("", "'' cannot be"),
        ("kd", r"methods/kd\.py is there already"),
        ("method", r"\.py is there already"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, message: str):
    (tmp_path / "tests" / "distill").mkdir(parents=True)
    (tmp_path / "tests" / "distill" / "test_method.py").touch()
    with pytest.raises(ValueError, match=message):
        write_method(name, tmp_path)
    assert not (tmp_path / "conf").exists()  # nothing is written by halves


def test_what_comes_next_names_the_files(tmp_path: Path):
    text = next_steps("abc", write_method("abc", tmp_path), tmp_path)
    for path in ("glmkd_nemo/distill/methods/abc.py", "conf/method/abc.yaml"):
        assert (tmp_path / path).is_file()
        assert path in text
