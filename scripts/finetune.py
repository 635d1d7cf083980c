"""Fine-tunes or distils a GLM on a task: python scripts/finetune.py task=rte KEY=VALUE ...

With ``method=...`` or ``stages=...``, and ``teacher=x.nemo``, a student is distilled; without, it
learns from the task's labels (conf/finetune.yaml). The same command goes on where one stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.run import further, glm_main


@glm_main("finetune", FinetuneSchema)
def main(cfg: DictConfig) -> int:
    """Trains as ``cfg`` says; writes ``best.nemo`` and ``results.json``."""
    from glmkd_nemo.engine.finetune import finetune

    return finetune(cfg, further("finetune", FinetuneSchema))


if __name__ == "__main__":  # saving checkpoints starts further processes
    main()
