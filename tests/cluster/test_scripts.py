"""Exit codes of scripts that a job may run: 2 for a user's error, which is not requeued."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    "command",
    [
        ["sort_vocab.py", "--corpus", "none", "--output", "v.tsv", "--tokenizer-path", "none"],
        ["make_tiny_data.py"],
        ["make_tiny_data.py", "file"],
    ],
)
def test_a_users_error_is_exit_code_2(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script, *arguments = command
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
