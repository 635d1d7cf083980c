"""A sweep of stand-ins, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmkd_nemo.tune.main import main

STAND_IN = Path(__file__).with_name("stand_in.py")


class Sweep:
    """Runs ``scripts/tune.py``'s main function in this process, one run at a time."""

    def __init__(self, folder: Path) -> None:
        self.out, self.ledger = folder / "out", folder / "ledger.jsonl"
        self.arguments = [
            f"out={self.out}",
            f"command=[python,{STAND_IN},{self.ledger}]",
            "seeds=[1,2]",
        ]

    def __call__(self, *changes: str) -> int:
        return main([*self.arguments, "launcher=basic", *changes])

    def noted(self, what: str) -> list[dict[str, Any]]:
        """What stand-ins wrote, in order."""
        if not self.ledger.is_file():
            return []
        rows = [json.loads(line) for line in self.ledger.read_text().splitlines()]
        return [row for row in rows if row["what"] == what]

    def folders(self, what: str) -> list[str]:
        """Their run folders."""
        return [row["exp_manager.explicit_log_dir"] for row in self.noted(what)]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Of 2 tasks, 2 methods, 2 learning rates, 2 seeds."""
    return Sweep(tmp_path)
