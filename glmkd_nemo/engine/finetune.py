"""Fine-tuning runs: stages one after the other, the best weights on dev, ``results.json``."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from glmkd_nemo.checkpoint.archive import check_archive, read_nemo_config
from glmkd_nemo.checkpoint.nemo import check_writable
from glmkd_nemo.engine import train
from glmkd_nemo.engine.best import NAME, SCORES, BestOnDev, write_scores
from glmkd_nemo.engine.callbacks import ProgressLine, StopWithCheckpoint
from glmkd_nemo.engine.trainer import build_trainer
from glmkd_nemo.report.json_file import write_json
from glmkd_nemo.report.run import write_run_page

RESULTS = "results.json"
# of a model that is fine-tuned, these are the ones it was saved with
_OF_THE_MODEL = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "max_position_embeddings",
    "make_vocab_size_divisible_by",
    "layernorm_epsilon",
    "attention_scale",
    "embedding_size",
    "share_layers",
    "bottleneck_size",
    "bottleneck_ffns",
    "bottleneck_word_embedding",
    "vocab_map",
    "tokenizer",
)
_GIVEN = {"best": NAME, "last": "last.nemo"}
Compose = Callable[[list[str]], DictConfig]


def finetune(cfg: DictConfig, compose: Compose) -> int:
    """Trains all stages; finished ones are skipped, a stopped one goes on.

    Args:
        cfg: the whole configuration (see ``conf/finetune.yaml``).
        compose: gives the configuration with further overrides.

    Returns:
        0, or 130 after Ctrl-C (a checkpoint is written).

    Raises:
        ValueError: what does not fit, before anything is trained.
        FileNotFoundError, CheckpointDamaged: by name.
    """
    folder = train.log_dir(cfg)
    check_writable(folder)
    gives = [str(stage.get("gives", "best")) for stage in cfg.stages]
    if unknown := {str(cfg.gives), *gives} - _GIVEN.keys():
        raise ValueError(f"a stage gives {', '.join(unknown)}: choose {' or '.join(_GIVEN)}")
    if not cfg.stages:
        return _stage(cfg, folder)
    planned = [compose(list(stage.overrides)) for stage in cfg.stages]  # all, before any training
    before = cfg.get("restore_from_path")
    for number, (stage, own) in enumerate(zip(cfg.stages, planned, strict=True), 1):
        place = folder / f"{number}_{stage.name}"
        with open_dict(own):
            own.restore_from_path, own.stages = before, []
            own.gives = gives[number - 1] if number < len(planned) else "best"
            own.evaluate_test = bool(cfg.evaluate_test) and number == len(planned)
            own.exp_manager.explicit_log_dir = str(place)
        _say(f"stage {number} of {len(planned)}: {stage.name}")
        if code := _stage(own, place):
            return code
        before = str(place / _GIVEN[own.gives])
    if torch.distributed.get_rank() == 0:
        shutil.copyfile(before, folder / NAME)
        shutil.copyfile(Path(before).parent / RESULTS, folder / RESULTS)
    torch.distributed.barrier()
    return 0


def _stage(cfg: DictConfig, folder: Path) -> int:
    began = time.monotonic()
    _take_sizes(cfg)
    fingerprint = _fingerprint(cfg)
    check_writable(folder)
    best, stop = BestOnDev(folder), StopWithCheckpoint()
    trainer = build_trainer(_with_steps(cfg), [ProgressLine(), stop, best])
    train.join(trainer)
    if _done(folder / RESULTS, fingerprint):
        return 0
    train.start_experiment(cfg, trainer, folder)
    model = train.build(cfg, trainer, _model_class())
    _set_steps(trainer, cfg, model.steps_per_epoch)
    if cfg.evaluate_first and trainer.ckpt_path is None:
        trainer.validate(model, verbose=False)
    trainer.fit(model)
    trainer.ckpt_path = None
    if stop.stopped_at is not None:
        _say(f"stopped at step {stop.stopped_at} of {trainer.max_steps}; the same command goes on")
        return train.STOPPED
    if cfg.gives == "last":
        model.save_to(str(folder / _GIVEN["last"]))
    test = _predict_test(model, trainer, best.path, folder) if cfg.evaluate_test else None
    outcome = {
        **_outcome(model, best, cfg),
        "test": test,
        "steps": int(trainer.max_steps),
        "seconds": round(time.monotonic() - began, 1),
        "command": " ".join(sys.argv),
        "fingerprint": fingerprint,
    }
    if trainer.is_global_zero:
        write_run_page(outcome, folder / "report.html")
        write_json(folder / RESULTS, outcome)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in best.metrics.items())
        _say(f"best at step {best.step}: {shown} ({best.path})")
    torch.distributed.barrier()
    return 0


def _outcome(model: Any, best: BestOnDev, cfg: DictConfig) -> dict[str, Any]:
    return {
        "task": model.task.name,
        "method": ", ".join(term["method"] for term in model.cfg.distill.terms.values()),
        "seed": int(cfg.model.seed),
        "started_from": str(cfg.restore_from_path) if cfg.get("restore_from_path") else None,
        "main_metric": model.task.main_metric,
        "lower_is_better": model.task.lower_is_better,
        "best": {"step": best.step, "metrics": best.metrics},
        "final": best.history[-1] if best.history else {},
        "history": best.history,
        "confusion": best.confusion,
        "baseline": model.task.baseline("valid"),
        "parameters": int(model.glm.num_parameters()),
    }


def _model_class() -> type:
    from glmkd_nemo.models.task_modelpt import GLMTaskModelPT

    return GLMTaskModelPT


def _take_sizes(cfg: DictConfig) -> None:
    """Sizes and tokenizer of the model that is fine-tuned, from its archive."""
    if not cfg.get("restore_from_path"):
        return
    check_archive(cfg.restore_from_path)
    saved = read_nemo_config(cfg.restore_from_path)
    with open_dict(cfg):
        for name in _OF_THE_MODEL:
            if name in saved:
                cfg.model[name] = saved[name]


def _with_steps(cfg: DictConfig) -> DictConfig:
    """A copy whose number of steps the trainer accepts; the true one is set when it is known."""
    own = cast(DictConfig, OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    own.trainer.max_steps = max(int(cfg.trainer.max_steps), 1)
    own.trainer.val_check_interval = max(int(cfg.trainer.val_check_interval), 1)
    own.trainer.limit_val_batches = 1.0
    return own


def _set_steps(trainer: Any, cfg: DictConfig, per_epoch: int) -> None:
    steps, interval = int(cfg.trainer.max_steps), int(cfg.trainer.val_check_interval)
    if steps < 1:
        steps = max(round(float(cfg.epochs) * per_epoch), 1)
    if interval < 1:
        interval = max(round(float(cfg.evaluate_every_epochs) * per_epoch), 1)
    trainer.fit_loop.epoch_loop.max_steps = steps
    trainer.val_check_interval = min(interval, steps)


def _predict_test(
    model: Any, trainer: Any, best: Path, folder: Path
) -> dict[str, dict[str, float] | None]:
    """Predictions, and metrics if there are labels, of the test set by the best weights."""
    from glmkd_nemo.models.task_modelpt import weights_of

    weights_of(model, str(best))
    metrics, scores = model.evaluate("test", lambda: trainer.validate(model, verbose=False))
    if trainer.is_global_zero:
        place = folder / "predictions_test"
        place.mkdir(exist_ok=True)
        write_scores(scores, place / SCORES)
        written = model.task.write_predictions("test", scores, place)
        _say(" ".join(["test:", *(str(path) for path in written), str(metrics or "")]))
    return {
        "metrics": metrics or None,
        "baseline": model.task.baseline("test") if metrics else None,
    }


def _fingerprint(cfg: DictConfig) -> str:
    sections = ["task", "model", "epochs", "restore_from_path", "trainer"]
    sections += ["gives"] if cfg.gives != "best" else []
    plain = {name: OmegaConf.to_container(cfg, resolve=True)[name] for name in sections}  # type: ignore[call-overload,index]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _done(path: Path, fingerprint: str) -> bool:
    """Whether the run is complete.

    Raises:
        ValueError: it is, with another configuration.
    """
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("fingerprint") != fingerprint:
        raise ValueError(
            f"{path} is of a run with another configuration: choose another name=..., or remove "
            f"{path.parent}"
        )
    _say(f"done before: {path}")
    return True


def _say(text: str) -> None:
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(text, file=sys.stderr, flush=True)
