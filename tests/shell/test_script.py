"""scripts/pretrain.py as a user runs it: errors in one line, a signal, the same command again."""

from __future__ import annotations

import os
import pydoc_data.topics
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glmkd_nemo.data.train_vocab import train_wordpiece
from tests.launch import ROOT, run_script

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text and a vocabulary."""
    folder = tmp_path_factory.mktemp("script")
    texts = list(pydoc_data.topics.topics.values())[:30]
    (folder / "text.txt").write_text("\n\n".join(texts))
    train_wordpiece(texts, 400, folder / "vocab")
    return folder


def tiny(place: Path) -> list[str]:
    """Settings of a tiny model of the text in ``place``."""
    return [
        "model.num_layers=2",
        "model.hidden_size=16",
        "model.num_attention_heads=2",
        "model.encoder_seq_length=48",
        "model.max_position_embeddings=48",
        "model.micro_batch_size=2",
        "model.global_batch_size=4",
        f"model.tokenizer.path={place / 'vocab'}",
        f"model.data.prefixes=[{place / 'text.txt'}]",
        "model.data.num_workers=0",
        "model.data.split='800,100,100'",
        "trainer.val_check_interval=1000",
        "trainer.limit_val_batches=1",
        "trainer.log_every_n_steps=1",
        f"exp_manager.exp_dir={place / 'runs'}",
    ]


def test_errors_are_one_message_without_traceback(place: Path):
    cases = {
        "model.hiden_size=8": "error: unknown key model.hiden_size; did you mean model.hidden_size",
        "model.data.prefixes=[nowhere.txt]": "nowhere.txt",
        "model.tensor_model_parallel_size=2": "error: 1 processes .* cannot hold",
        f"exp_manager.exp_dir={place / 'text.txt'}": "error: cannot write to",
    }
    for argument, words in cases.items():
        done = run_script("pretrain", *tiny(place), argument, "name=wrong", cwd=place)
        text = done.stdout + done.stderr
        assert done.returncode == 2, text
        assert "Traceback" not in text
        assert text.startswith("error: ")
        assert re.search(words, text)
        assert len(text.splitlines()) <= 3


def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(place: Path):
    name = "stopped"
    script = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), *tiny(place)]
    process = subprocess.Popen(
        [*script, f"name={name}", "trainer.max_steps=4000", "model.data.num_workers=1"],
        cwd=place,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    os.killpg(process.pid, signal.SIGTERM)  # Slurm and a terminal signal workers too
    rest, _ = process.communicate(timeout=300)
    assert process.returncode == 130, rest
    assert "the same command goes on" in rest
    (last,) = (place / "runs" / name / "checkpoints").glob("*-last")
    step = int(last.name.split("step=")[1].split("-")[0])
    more = f"trainer.max_steps={step + 2}"
    again = run_script("pretrain", *tiny(place), f"name={name}", more, cwd=place)
    assert again.returncode == 0, again.stderr
    assert f"step {step + 1}/{step + 2} loss" in again.stderr
    assert f"step {step}/" not in again.stderr
    assert (place / "runs" / name / f"{name}.nemo").is_file()
