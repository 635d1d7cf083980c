"""A recipe of two stages, and a folder to launch it from."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.recipe.plan import Stage

RECIPE = """\
title: tiny
stages:
  pretrain:
    overrides:
      model: tiny4
      model.tokenizer.path: "it's here"
      model.data.prefixes: [text.txt]
      trainer.num_nodes: 2
      trainer.devices: 4
  second:
    overrides: {model: tiny4, model.tokenizer.path: vocab, model.data.prefixes: [text.txt]}
    student: pretrain
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``tiny.yaml``, and the one that the test runs in."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stage() -> Stage:
    """A stage of two nodes."""
    folder = Path("/data/out/pretrain")
    return Stage(
        name="pretrain",
        script="pretrain",
        arguments=("model=base", "model.data.prefixes=[a,b]", "name=it's"),
        needs=(),
        folder=folder,
        result=folder / "pretrain.nemo",
        nodes=2,
        devices=8,
    )
