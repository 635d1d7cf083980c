"""Pre-trains a GLM, or distils one: python scripts/pretrain.py KEY=VALUE ... (conf/pretrain.yaml).

Without ``method=...`` the objective is autoregressive blank infilling; with it, and with
``model.teachers.t0.restore_from_path=x.nemo``, a student is distilled. The same command goes on
where an earlier one stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.config.run import glm_main


@glm_main("pretrain")
def main(cfg: DictConfig) -> int:
    """Trains as ``cfg`` says and writes a ``.nemo``."""
    from glmkd_nemo.engine.train import train

    return train(cfg)


if __name__ == "__main__":  # saving checkpoints starts further processes
    main()
