"""Small distillations on the real path: text, tokenizer, teacher's ``.nemo``, checkpoints."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from omegaconf import DictConfig, OmegaConf

import glmkd_nemo  # noqa: F401
from glmkd_nemo.engine.train import train
from glmkd_nemo.models.distill_modelpt import GLMDistillModelPT

WORDS = 40
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {},
    "tp2": {"model__tensor_model_parallel_size": 2},
    "tp2_sp": {"model__tensor_model_parallel_size": 2, "model__sequence_parallel": True},
    "pp2": {"model__pipeline_model_parallel_size": 2},
}
# as pp2, but there teachers run in waiting times
IN_TURN = {"pp2_in_turn": {**LAYOUTS["pp2"], "model__run_ahead": {"micro_batches": 0}}}
TERMS = {
    "tinybert": {"method": "tinybert", "weight": 0.5},
    "kd": {"method": "kd", "temperature": 2.0, "weight": 3.0},
    "glmd": {"method": "glmd", "schedule": {"kind": "linear", "start": 1.0, "end": 0.1}},
    "hard": {"method": "hard"},
}
DROPOUT_FREE = {"model__hidden_dropout": 0.0, "model__attention_dropout": 0.0}
STUDENT = {"model__num_layers": 2, "model__hidden_size": 16, "model__distill": {"terms": TERMS}}


class Remembering(GLMDistillModelPT):
    """Remembers the loss parts by step and a digest of its weights; can kill itself."""

    parts: ClassVar[dict[int, dict[str, float]]] = {}
    weights: ClassVar[str] = ""
    kill_at: ClassVar[int | None] = None
    next_step: ClassVar[bool] = False

    def on_schedule_end(self, num_microbatches: int, forward_only: bool) -> None:
        """In mid-step: gradients are there, the optimizer has not run."""
        super().on_schedule_end(num_microbatches, forward_only)
        if not forward_only and self.trainer.global_step == type(self).kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Remembers."""
        loss = super().training_step(batch, batch_idx)
        found = {name: float(value) for name, value in self.last_parts.items()}
        self.parts[self.trainer.global_step] = found
        return loss

    def on_train_end(self) -> None:
        """Digest of student and projections."""
        super().on_train_end()
        assert self.step is not None
        type(self).next_step = self.step.ahead.bounds.next_step
        digest = hashlib.sha256()
        for parameter in self.glm.parameters():
            digest.update(parameter.detach().contiguous().view(torch.uint8).numpy().tobytes())
        type(self).weights = digest.hexdigest()


def write_text(root: Path) -> None:
    """A corpus of made-up sentences, and two vocabularies."""
    root.mkdir(parents=True, exist_ok=True)
    words = [f"w{i}" for i in range(WORDS)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
    (root / "vocab.txt").write_text("\n".join(special + words) + "\n")
    (root / "other.txt").write_text("\n".join(special + words[::-1]) + "\n")
    rng = random.Random(3)
    lines = []
    for _ in range(300):
        start, step = rng.randrange(WORDS), rng.randrange(1, 4)
        lines.append(" ".join(words[(start + step * i) % WORDS] for i in range(12)) + " .")
    (root / "text.txt").write_text("\n\n".join(lines) + "\n")  # a document each


def config(root: Path, folder: Path | str, **changes: Any) -> DictConfig:
    """The shipped configuration made tiny; ``changes`` are dotted keys with ``__`` for the dots."""
    shipped = OmegaConf.load(Path(__file__).resolve().parents[2] / "conf" / "pretrain.yaml")
    shipped.pop("defaults")
    tiny = {
        "trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu", "precision": 32}
        | {"max_steps": 6, "val_check_interval": 3, "limit_val_batches": 2}
        | {"log_every_n_steps": 1},
        "exp_manager": {"explicit_log_dir": str(folder), "exp_dir": None, "name": None}
        | {"checkpoint_callback_params": {"save_top_k": -1}},
        "model": {"micro_batch_size": 2, "global_batch_size": 8, "num_layers": 4, "seed": 7}
        | {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32}
        | {"encoder_seq_length": 32, "make_vocab_size_divisible_by": 8}
        | {"tokenizer": {"type": "bert", "path": str(root / "vocab.txt")}}
        | {"data": {"prefixes": [str(root / "text.txt")], "cache_dir": str(root / "cache")}}
        | {"optim": {"lr": 3e-3, "sched": {"min_lr": 1e-4, "warmup_ratio": None}}},
    }
    cfg = OmegaConf.merge(shipped, tiny)
    cfg.name = "tiny"
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    assert isinstance(cfg, DictConfig)
    return cfg


def distil(root: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Distils (or goes on) with processes that have joined, at a fresh layout."""
    parallel_state.destroy_model_parallel()
    Remembering.parts.clear()
    changes.setdefault("trainer__devices", dist.get_world_size())
    teacher = {"model__teachers": {"t0": {"restore_from_path": str(root / "t" / "tiny.nemo")}}}
    code = train(config(root, folder, **{**STUDENT, **teacher, **changes}), Remembering)
    return {"code": code, "parts": dict(Remembering.parts), "weights": Remembering.weights}


def teacher_and_killed(root: str) -> None:
    """Trains the teacher; then a distillation with dropout that SIGKILL ends in mid-step."""
    base = Path(root)
    write_text(base)
    train(config(base, base / "t"))
    Remembering.kill_at = 4
    distil(base, base / "killed")


def one_process(root: str) -> dict[str, Any]:
    """An uninterrupted run, the killed one resumed, one without dropout, and bad input."""
    base = Path(root)
    short = {"trainer__max_steps": 2, "exp_manager__create_checkpoint_callback": False}
    half = {"model__precision": "bf16", **DROPOUT_FREE}
    lower = {"model__teachers__t0__precision": "bf16"}
    recompute = {"model__activations_checkpoint_granularity": "full"}
    return {
        "whole": distil(base, base / "whole"),
        "resumed": distil(base, base / "killed"),
        "no_dropout": distil(base, base / "no_dropout", **DROPOUT_FREE),
        "recompute": distil(base, base / "recompute", **recompute),
        "bf16": distil(base, base / "bf16", **short, **half),
        "bf16_teacher": distil(base, base / "bf16_teacher", **short, **lower, **DROPOUT_FREE),
        "refusals": refusals(base),
        "from_nemo": _restored_student(base),
    }


def many_processes(root: str, layouts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The run without dropout, resumed at other layouts after step 3."""
    base, results = Path(root), {}
    for name, changes in layouts.items():
        folder = base / f"resumed_{name}"
        if dist.get_rank() == 0:
            _copy_without_end(base / "no_dropout", folder)
        dist.barrier()
        results[name] = distil(base, folder, **DROPOUT_FREE, **changes)
        results[name]["next_step"] = Remembering.next_step
    return results


def refusals(base: Path) -> dict[str, str]:
    """Messages for input that cannot work."""
    archive = base / "t" / "tiny.nemo"
    truncated = base / "truncated.nemo"
    truncated.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    shallow = base / "shallow"  # an unpacked archive whose configuration asks for another layer
    shutil.unpack_archive(str(archive), str(shallow), format="tar")
    settings = OmegaConf.load(shallow / "model_config.yaml")
    settings.num_layers = 5
    OmegaConf.save(settings, shallow / "model_config.yaml")
    t0 = "model__teachers__t0__restore_from_path"
    cases: dict[str, dict[str, Any]] = {
        "vocabulary": {"model__tokenizer__path": str(base / "other.txt")},
        "missing": {t0: str(base / "nowhere.nemo")},
        "truncated": {t0: str(truncated)},
        "lacks_weights": {t0: str(shallow)},
        "not_set": {t0: None},
        "unused": {
            "model__teachers__t1": {"restore_from_path": str(archive)},
            "model__distill": {"terms": {"kd": {"method": "kd", "teacher": "t0"}}},
        },
        "no_teacher": {"model__teachers": {}},
        "heads": {"model__num_attention_heads": 2},
    }
    found = {}
    for name, changes in cases.items():
        try:
            distil(base, base / "refused", **changes)
        except (ValueError, OSError) as error:
            found[name] = str(error)
    return found


def _restored_student(base: Path) -> dict[str, float]:
    """A new distillation that starts from the student's own ``.nemo``."""
    archive = str(base / "no_dropout" / "tiny.nemo")
    start = {"restore_from_path": archive, "trainer__max_steps": 1, **DROPOUT_FREE}
    return dict(distil(base, base / "from_nemo", **start)["parts"][0])


def _copy_without_end(source: Path, target: Path) -> None:
    (target / "checkpoints").mkdir(parents=True)
    for path in (source / "checkpoints").iterdir():
        if "step=3" in path.name:
            shutil.copytree(path, target / "checkpoints" / path.name)
