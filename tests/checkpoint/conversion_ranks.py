"""Loads ``.nemo`` archives at a parallel layout and saves them from there, for test_convert."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state

from glmkd_nemo.checkpoint.archive import CONFIG, TOKENIZER, WEIGHTS, extracted, read_nemo_config
from glmkd_nemo.checkpoint.sharded import save_shards, write_listing
from glmkd_nemo.checkpoint.weights import load_sharded
from glmkd_nemo.data.tokenizer import load_tokenizer
from glmkd_nemo.engine.strategy import initialize_model_parallel
from glmkd_nemo.models.config import even_split
from glmkd_nemo.models.from_cfg import glm_config_from_cfg
from glmkd_nemo.models.glm import GLMModel


def reshard(jobs: list[tuple[str, str]], tp: int, pp: int) -> None:
    """From each ``.nemo`` to a sharded folder, saved by ``tp * pp`` ranks."""
    initialize_model_parallel(tp, pp, seed=1)
    for source, target in jobs:
        with extracted(source) as folder:
            model = _loaded(source, folder, tp, pp)
            if dist.get_rank() == 0:
                (Path(target) / WEIGHTS).mkdir(parents=True)
                shutil.copy(folder / CONFIG, target)
                shutil.copytree(folder / TOKENIZER, Path(target) / TOKENIZER)
        dist.barrier()
        save_shards(model.sharded_state_dict(prefix="model."), Path(target) / WEIGHTS)
        dist.barrier()
        if dist.get_rank() == 0:
            write_listing(Path(target) / WEIGHTS)


def _loaded(source: str, folder: Path, tp: int, pp: int) -> GLMModel:
    cfg = read_nemo_config(source)
    words = load_tokenizer(folder / TOKENIZER).vocab_size
    parallel = {"tensor_model_parallel_size": tp, "pipeline_model_parallel_size": pp}
    split = even_split(cfg.num_layers, pp)
    model = GLMModel(
        glm_config_from_cfg(cfg, words, parallel=parallel, split=split),
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=True),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=True),
    )
    load_sharded(model, folder / WEIGHTS, label=source)
    return model
