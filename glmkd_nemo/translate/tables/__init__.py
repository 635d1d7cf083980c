"""Every option of the original's parsers: a module for each group, all of them in ``OPTIONS``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table
from glmkd_nemo.translate.tables import (
    aggregators,
    auto_tune,
    custom,
    data,
    distill,
    generation,
    launcher,
    methods,
    model,
    tasks,
    teachers,
    training,
)

AUTO_TUNE: Table = auto_tune.OPTIONS
LAUNCHER: Table = launcher.OPTIONS  # of deepspeed
TORCH: Table = launcher.TORCH  # of torchrun and torch.distributed.launch
# of pretrain, finetune and their GLM forms, in one parser as in the original
PROGRAM: Table = {
    **model.OPTIONS,
    **training.OPTIONS,
    **generation.OPTIONS,
    **data.OPTIONS,
    **tasks.OPTIONS,
    **custom.OPTIONS,
    **launcher.OF_PROGRAMS,
    **distill.OPTIONS,
    **teachers.OPTIONS,
    **methods.OPTIONS,
    **aggregators.OPTIONS,
}
