"""Stands in for the scripts of stages: notes what it is asked in a ledger, and leaves a result."""

import json
import signal
import sys
import time
from pathlib import Path


def note(what: str, name: str, ledger: Path) -> None:
    with ledger.open("a") as file:
        file.write(json.dumps([what, name]) + "\n")


def main(arguments: list[str]) -> int:
    given = dict(argument.split("=", 1) for argument in arguments)
    folder, name = Path(given["exp_manager.explicit_log_dir"]), given["name"]
    ledger = folder.parent / "ledger"
    begun = folder / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    note("resume" if begun.exists() else "start", name, ledger)
    begun.touch()
    if given.get("model.seed") == "13":
        print("error: model.seed=13 is out of this world", flush=True)
        return 2
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    end = time.monotonic() + float(given["model.optim.lr"])  # how long it takes
    while time.monotonic() < end and not asked:
        time.sleep(0.01)
    if asked:
        note("stopped", name, ledger)
        return 130
    print("step 1/2 soft 3.5 loss 4.5 lr 1e-3\nstep 2/2 soft 2.5 loss 3.25 lr 1e-3", flush=True)
    if "task" in given:
        (folder / "best.nemo").touch()
        results = {"main_metric": "accuracy", "best": {"metrics": {"accuracy": 0.75}}}
        (folder / "results.json").write_text(json.dumps(results))
    else:
        (folder / f"{name}.nemo").touch()
    note("done", name, ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
