"""Generates text with a .nemo: python scripts/generate.py restore_from_path=x.nemo KEY=VALUE ...

Prompts are typed in, or come from ``input=prompts.txt`` (or .jsonl) and the texts go to
``output=texts.jsonl`` (conf/generate.yaml).
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.config.generate import GenerateSchema
from glmkd_nemo.config.run import glm_main


@glm_main("generate", GenerateSchema)
def main(cfg: DictConfig) -> int:
    """Generates as ``cfg`` says."""
    from glmkd_nemo.generation.run import run

    return run(cfg)


if __name__ == "__main__":  # several ranks start further processes
    main()
