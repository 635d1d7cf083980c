"""Plans a run before it is started: memory of every rank, fit, time of a step.

    python scripts/plan.py model=2b teacher=10b method=glmd nodes=8 gpus_per_node=8 gpu=h100-80g
        tensor_model_parallel_size=4 micro_batch_size=4 global_batch_size=512 [search=true]
    python scripts/plan.py recipe=NAME stage=NAME [KEY=VALUE ...]

conf/plan.yaml lists the devices and what is assumed of them. Nothing is allocated: the modules of
each rank are built for real, without memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":
    from glmkd_nemo.plan.main import main

    sys.exit(main(sys.argv[1:]))
