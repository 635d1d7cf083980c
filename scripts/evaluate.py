"""Evaluates a .nemo on a task: python scripts/evaluate.py task=cnn_dm restore_from_path=x.nemo ...

Writes metrics.json and files of predictions to runs/evaluate-TASK-SPLIT (conf/evaluate.yaml).
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.config.evaluate import EvaluateSchema
from glmkd_nemo.config.run import glm_main


@glm_main("evaluate", EvaluateSchema)
def main(cfg: DictConfig) -> int:
    """Evaluates as ``cfg`` says."""
    from glmkd_nemo.engine.evaluate import evaluate

    return evaluate(cfg)


if __name__ == "__main__":  # several ranks start further processes
    main()
