"""The demo's trainings, as changes to ``conf/pretrain.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glmkd_nemo.demo.corpus import data_paths
from glmkd_nemo.demo.settings import DemoSettings, ModelSettings

WARMUP_SHARE = 0.3  # held-out loss of the small student, 300 steps: 4.98 with 20, 4.92 with 90
INIT_STD = 0.05  # narrow models: 0.02 learns later
FINAL_LR_SHARE = 0.1


def data_section() -> dict[str, Any]:
    """Section ``model.data`` without paths; blanks as in ``conf/data/block_lm.yaml``."""
    return {"split": "1,0,0", "num_workers": 0, "block_infilling": {"bert_prob": 1.0}}


def pretraining(
    name: str, folder: Path, corpus: Path, size: ModelSettings, settings: DemoSettings
) -> dict[str, Any]:
    """A GLM trained with labels.

    Args:
        name: of the run and its ``.nemo``.
        folder: where the run writes.
        corpus: what :func:`~glmkd_nemo.demo.corpus.prepare_corpus` wrote.
        size: of the model, and its steps.
        settings: all others.
    """
    return {
        "name": name,
        "exp_manager": {
            "exp_dir": None,
            "explicit_log_dir": str(folder),
            "checkpoint_callback_params": {"save_top_k": 0},  # the last one, to resume from
        },
        "trainer": {
            "max_steps": size.steps,
            "val_check_interval": min(size.check_every, size.steps),
            "limit_val_batches": settings.check_batches,
        },
        "model": {
            "num_layers": size.num_layers,
            "hidden_size": size.hidden_size,
            "num_attention_heads": size.num_attention_heads,
            "micro_batch_size": settings.batch_size,
            "global_batch_size": settings.batch_size,
            "max_position_embeddings": settings.seq_length,
            "encoder_seq_length": settings.seq_length,
            "make_vocab_size_divisible_by": 8,
            "hidden_dropout": 0.0,  # little more than one pass over the text: nothing to fight
            "attention_dropout": 0.0,
            "init_method_std": INIT_STD,
            "seed": settings.seed,
            "tokenizer": {"type": "bert", "path": str(corpus / "tokenizer")},
            "data": {**data_section(), **data_paths(corpus), "cache_dir": None},
            "optim": {
                "lr": size.lr,
                "weight_decay": 0.01,
                "sched": {"warmup_ratio": WARMUP_SHARE, "min_lr": size.lr * FINAL_LR_SHARE},
            },
        },
    }


def distillation(plain: dict[str, Any], teacher: str, terms: dict[str, Any]) -> dict[str, Any]:
    """The run `plain` with a teacher (its ``.nemo``) and the terms of an objective."""
    model = {
        **plain["model"],
        "teachers": {"t0": {"restore_from_path": teacher}},
        "distill": {"terms": terms},
    }
    return {**plain, "model": model}


def kd_terms(settings: DemoSettings, target_share: float) -> dict[str, Any]:
    """KD (arXiv 1503.02531): the teacher's soft labels and the hard ones, per blank token.

    Args:
        settings: ``kd.temperature``, ``kd.soft``.
        target_share: blank tokens per position; the term ``kd`` is a mean over all positions, the
            term ``hard`` one over blank tokens.
    """
    return _with_labels(settings.kd.temperature, settings.kd.soft, target_share, {})


def glmd_terms(
    settings: DemoSettings, first: int, second: str, target_share: float
) -> dict[str, Any]:
    """GLMD (arXiv 2306.06625): `first` steps on logits of all positions, then stage `second`."""
    turn = first / settings.student.steps
    later = {"schedule": {"kind": "stage", "begin": turn, "until": 1.0}}
    stage_2 = {"hard": {"method": "hard", **later}}
    if second == "soft":
        stage_2 = _with_labels(1.0, settings.kd.soft, target_share, later)
    stage_1 = {
        "method": "glmd",
        "temperature": settings.glmd.temperature,
        "mask_pad": True,
        "schedule": {"kind": "stage", "begin": 0.0, "until": turn},
    }
    return {"glmd": stage_1, **stage_2}


def _with_labels(
    temperature: float, soft: float, target_share: float, extra: dict[str, Any]
) -> dict[str, Any]:
    return {
        "soft": {
            "method": "kd",
            "weight": soft / target_share,
            "temperature": temperature,
            **extra,
        },
        "hard": {"method": "hard", "weight": 1.0 - soft, **extra},
    }
