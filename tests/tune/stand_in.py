"""Stands in for scripts/finetune.py: notes what it is asked in a ledger, and writes a result.

``epochs`` is how long it takes in seconds. Each method has a learning rate that suits it best.
"""

import json
import os
import sys
import time
from pathlib import Path

BASE = {"rte": 0.5, "copa": 0.6}
BEST_RATE = {"glmd": 2e-5, "tinybert": 1e-5}


def note(what: str, given: dict[str, str], ledger: Path) -> None:
    row = {"what": what, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), **given}
    with ledger.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main(ledger: Path, arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    rate, seed = float(given["model.optim.lr"]), int(given["model.seed"])
    note("start", given, ledger)
    if rate == 13:
        print("error: model.optim.lr=13 is out of this world")
        return 2
    try:
        time.sleep(float(given.get("epochs", 0)))
    except KeyboardInterrupt:
        note("stopped", given, ledger)
        return 130
    off = abs(rate - BEST_RATE.get(given.get("method", ""), 1e-5)) * 1e4
    accuracy = BASE[given["task"]] - off + seed % 10 / 100
    metrics = {"accuracy": accuracy, "f1": 0.25}
    best = {"step": 7, "metrics": metrics}
    result = {"main_metric": "accuracy", "best": best, "seconds": 1.5}
    folder = Path(given["exp_manager.explicit_log_dir"].strip("'"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result))
    note("done", given, ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
