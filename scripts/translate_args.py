"""Prints what a command line of the original GLM or GLMKD is here; ``--run`` also runs it.

    python scripts/translate_args.py -- deepspeed --include=localhost:0 distill/finetune.py ...
    python scripts/translate_args.py 'NCCL_DEBUG=info deepspeed ... distill/pretrain.py ...'
    python scripts/translate_args.py [--run] FILE        (or - for standard input)

It knows pretrain.py, finetune.py, pretrain_glm.py, finetune_glm.py, auto_tune.py, change_mp.py,
generate_samples.py and vocab_sort.py, started by deepspeed, torchrun, torch.distributed.launch or
python, after cd, nohup and variables. Options without effect or equivalent are listed, with the
reason. Run it where the original's folders are, and it reads the DeepSpeed files that it names.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

from glmkd_nemo.translate.main import main

if __name__ == "__main__":
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__)
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
