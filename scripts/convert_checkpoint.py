"""Converts checkpoints: original GLM files of any model-parallel size, .nemo, Hugging Face.

    python scripts/convert_checkpoint.py source=blocklm-large-blank target=large.nemo \\
        model.num_attention_heads=16 model.tokenizer.type=bert model.tokenizer.path=vocab.txt
    python scripts/convert_checkpoint.py source=blocklm-xxlarge target=xxlarge_MP4 \\
        format=original model_parallel_size=4
    python scripts/convert_checkpoint.py source=large.nemo target=large-hf format=huggingface

``verify=true`` (or ``--verify``) loads both and compares their logits. Keys: source, target, format
(nemo, sharded, original, huggingface), model_parallel_size, tag, drop=[student.*], replicas,
model.KEY (what the source does not tell), pool, shard_size, verify, overwrite.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone, not installed

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]) or len(sys.argv) == 1:
        print(__doc__)
        sys.exit(0)
    from glmkd_nemo.checkpoint.summary import main

    sys.exit(main(sys.argv[1:]))
