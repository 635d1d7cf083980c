"""scripts/generate.py, in this process: files, typed prompts, errors by name."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from glmkd_nemo.config.generate import GenerateSchema
from glmkd_nemo.config.run import CONF
from glmkd_nemo.config.strict import ConfigError, check
from glmkd_nemo.generation import GenerationConfig, Generator
from glmkd_nemo.generation import run as generation_run
from tests.generation import words
from tests.generation.words import PROMPTS, Words

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """conf/generate.yaml with changes; the model is one of a few words."""
    generator = Generator(words.model(20), Words(20), batch_size=2)
    monkeypatch.setattr(generation_run, "restore", lambda cfg: generator)
    monkeypatch.setattr(generation_run, "check_archive", lambda path: None)

    def changed(**changes: Any) -> DictConfig:
        cfg = OmegaConf.load(CONF / "generate.yaml")
        assert isinstance(cfg, DictConfig)
        cfg.generation.max_new_tokens = 4
        cfg.update({"restore_from_path": "x.nemo", **changes})
        return cfg

    return changed


def test_the_configuration_is_that_of_the_schema():
    cfg: Any = OmegaConf.to_container(OmegaConf.load(CONF / "generate.yaml"))
    assert cfg["generation"] == dataclasses.asdict(GenerationConfig())
    cfg.pop("defaults")
    cfg["model"]["precision"] = cfg["restore_from_path"] = "32"
    check(cfg, GenerateSchema)
    cfg["generation"]["early_stopping"] = "never"
    check(cfg, GenerateSchema)
    cfg["generation"]["num_beam"] = 4
    with pytest.raises(ConfigError, match=r"num_beam; did you mean generation.num_beams"):
        check(cfg, GenerateSchema)


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_a_file_of_prompts(settings: Any, tmp_path: Path, name: str):
    rows = PROMPTS if name.endswith("txt") else [json.dumps({"text": p}) for p in PROMPTS]
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    output = tmp_path / "texts.jsonl"
    cfg = settings(input=str(tmp_path / name), output=str(output), batch_size=2)
    assert generation_run.run(cfg) == 0
    made = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prompt"] for row in made] == PROMPTS
    generator = Generator(words.model(20), Words(20))
    expected = generator.generate(PROMPTS, GenerationConfig(max_new_tokens=4))
    assert [row["text"] for row in made] == [one.text for one in expected]
    assert [row["filled"] for row in made] == [one.filled for one in expected]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "texts.jsonl"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "w7"}\n{"txt": "w8"}\n', r"prompts.jsonl:2: no key 'text'"),
        (b'{"text": "w7"}\n\xff\n', r"prompts.jsonl:2: not UTF-8"),
        (b'{"text": "' + b"w7 " * 30 + b'"}\n', r"prompts.jsonl:1 has 32 tokens"),
        (b"", "prompts.jsonl is empty"),
    ],
)
def test_rows_that_are_no_prompts(settings: Any, tmp_path: Path, content: bytes, message: str):
    (tmp_path / "prompts.jsonl").write_bytes(content)
    output = tmp_path / "texts.jsonl"
    cfg = settings(input=str(tmp_path / "prompts.jsonl"), output=str(output))
    with pytest.raises(ValueError, match=message):
        generation_run.run(cfg)
    assert [p.name for p in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_output_needs_input(settings: Any, tmp_path: Path):
    with pytest.raises(ValueError, match="give input="):
        generation_run.run(settings(output=str(tmp_path / "texts.jsonl")))


def test_typed_prompts(
    settings: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An error does not end the session; several blanks are shown in their text."""
    typed = [PROMPTS[1], "", "w7 " * 30, PROMPTS[2]]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
    assert generation_run.run(settings()) == 0
    shown = capsys.readouterr()
    config = GenerationConfig(max_new_tokens=4)
    several, one = Generator(words.model(20), Words(20)).generate(PROMPTS[1:], config)
    assert shown.out.splitlines() == [several.filled, one.text]
    assert "error: prompt 1 has 32 tokens" in shown.err
