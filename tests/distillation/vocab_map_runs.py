"""Small distillations of students with a vocabulary map, on the real path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.data.sort_vocab import sort_vocab
from glmkd_nemo.data.tokenizer import build_tokenizer
from glmkd_nemo.engine.train import train
from tests.distillation.runs import DROPOUT_FREE, LAYOUTS, config, distil, write_text

GLMD = {"method": "glmd", "mask_map": True, "teacher_input_map": True}
SHORT = {"trainer__max_steps": 4, "trainer__val_check_interval": 2, **DROPOUT_FREE}


def section(root: Path, **changes: Any) -> dict[str, Any]:
    """A student that keeps 24 of the 48 tokens."""
    keys = {"size": 24, "table": str(root / "vocab.tsv"), "replace": "cosine", **changes}
    terms = {"glmd": GLMD, "kd": {"method": "kd", "loss": "jsd"}, "hard": {"method": "hard"}}
    return {"model__vocab_map": keys, "model__distill": {"terms": terms}, **SHORT}


def one_process(root: str) -> dict[str, Any]:
    """A teacher, two students (mapped output or not), and one that learns from a student."""
    base = Path(root)
    write_text(base)
    tokenizer = build_tokenizer({"type": "bert", "path": str(base / "vocab.txt")})
    sort_vocab([base / "text.txt"], base / "vocab.tsv", tokenizer, keep=(), progress=False)
    train(config(base, base / "t", **{**DROPOUT_FREE, "trainer__max_steps": 3}))
    found = {
        "mapped": distil(base, base / "mapped", **section(base)),
        "unmapped": distil(base, base / "unmapped", **section(base, unmap_output=True)),
    }
    (base / "vocab.tsv").unlink()  # whoever has the weights has the map
    kd = {"model__distill": {"terms": {"kd": {"method": "kd", "temperature": 2.0}}}}
    t0 = "model__teachers__t0__restore_from_path"
    for name in ("mapped", "unmapped"):
        archive = {t0: str(base / name / "tiny.nemo")}
        found[f"of_{name}"] = distil(base, base / f"of_{name}", **{**SHORT, **kd, **archive})
    try:
        distil(base, base / "empty", **section(base))
    except ValueError as error:
        found["empty"] = str(error)
    return found


def many_processes(root: str) -> dict[str, Any]:
    """The students, resumed at other layouts after step 2, without the table."""
    base, results = Path(root), {}
    for student in ("mapped", "unmapped"):
        for name, changes in LAYOUTS.items():
            folder = base / f"{student}_{name}"
            if dist.get_rank() == 0:
                _copy_without_end(base / student, folder)
            dist.barrier()
            settings = section(base, unmap_output=student == "unmapped")
            results[f"{student}_{name}"] = distil(base, folder, **settings, **changes)
            parallel_state.destroy_model_parallel()
    return results


def _copy_without_end(source: Path, target: Path) -> None:
    (target / "checkpoints").mkdir(parents=True)
    for path in (source / "checkpoints").iterdir():
        if "step=2" in path.name:
            shutil.copytree(path, target / "checkpoints" / path.name)
