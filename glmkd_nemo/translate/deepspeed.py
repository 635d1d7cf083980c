"""DeepSpeed files that commands of the original name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What a run takes from a DeepSpeed file; ``None``: the file does not say."""

    micro_batch: int | None = None
    accumulation: int | None = None
    clip: float | None = None
    fp16: bool = False
    lr: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    zero_stage: int = 0
    cpu_offload: bool = False


_PRE = {"lr": 4e-4, "weight_decay": 0.1, "betas": (0.9, 0.98), "eps": 1e-6}
_10B = {"weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "zero_stage": 2}
_TASK = {"lr": 1e-5, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
_TASK_10B = {**_10B, "lr": 5e-6, "weight_decay": 0.01, "cpu_offload": True}


def _known(micro: int, accumulation: int, rest: dict[str, Any], fp16: bool = True) -> Settings:
    return Settings(micro, accumulation, **{"clip": 1.0, "fp16": fp16, **rest})


# values of the files that come with the original, for where its folders are not at hand
KNOWN = {
    "config/config_block_10B.json": _known(21, 1, {**_10B, "lr": 1e-4}),
    "config/config_block_10B_longer.json": _known(8, 1, {**_10B, "lr": 3e-5}),
    "config/config_block_base.json": _known(16, 1, _PRE),
    "config/config_block_large.json": _known(16, 1, {**_PRE, "lr": 2e-4}),
    "config/config_block_large_chinese.json": _known(32, 1, {**_PRE, "weight_decay": 0.01}),
    "config/config_block_tiny4_fp32.json": _known(16, 1, _PRE, fp16=False),
    "config/config_block_tiny6.json": _known(16, 1, _PRE),
    "config/config_block_tiny6_big.json": _known(8, 2, _PRE),
    "config_tasks/config_blocklm_10B.json": _known(4, 2, _TASK_10B),
    "config_tasks/config_blocklm_10B_1gpu.json": _known(4, 16, _TASK_10B),
    "config_tasks/config_blocklm_10B_cnndm.json": _known(4, 1, _TASK_10B),
    "config_tasks/config_blocklm_10B_record.json": _known(1, 8, _TASK_10B),
    "config_tasks/config_blocklm_base.json": _known(16, 1, _TASK),
    "config_tasks/config_blocklm_large.json": _known(16, 1, {**_TASK, "clip": 1000.0}),
    "config_tasks/config_blocklm_tiny4_fp32.json": _known(16, 1, _TASK, fp16=False),
    "config_tasks/config_blocklm_tiny6.json": _known(16, 1, _TASK),
    "config_tasks/config_blocklm_tiny6_big_task.json": _known(4, 2, _TASK),
    "config_tasks/config_blocklm_tiny6_mini.json": _known(8, 2, _TASK),
    "config_tasks/config_blocklm_tiny6_record.json": _known(4, 4, _TASK),
}


def settings_of(path: str) -> tuple[Settings, str | None]:
    """What a DeepSpeed file says, and a note where it is not there.

    Raises:
        ValueError: it is not there and none of the original's, or it is no JSON.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return _read(file), None
    name = "/".join(PurePosixPath(path).parts[-2:])
    if name not in KNOWN:
        raise ValueError(
            f"--deepspeed_config={path}: there is no such file here, and it is none that comes "
            "with the original: run this where it is, or give its path"
        )
    return KNOWN[name], f"{path} is not here: taken is what the original's file says"


def _read(file: Path) -> Settings:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no JSON file: {error}") from error
    params = (found.get("optimizer") or {}).get("params") or {}
    zero = found.get("zero_optimization") or {}
    betas = params.get("betas") or (0.9, 0.999)
    return Settings(
        micro_batch=found.get("train_micro_batch_size_per_gpu"),
        accumulation=found.get("gradient_accumulation_steps"),
        clip=found.get("gradient_clipping"),
        fp16=bool((found.get("fp16") or {}).get("enabled")),
        lr=params.get("lr"),
        weight_decay=params.get("weight_decay"),
        betas=(float(betas[0]), float(betas[1])),
        eps=float(params.get("eps", 1e-8)),
        zero_stage=int(zero.get("stage") or 0),
        cpu_offload=bool(zero.get("cpu_offload") or zero.get("offload_optimizer")),
    )
