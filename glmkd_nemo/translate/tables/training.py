"""Groups ``train`` and ``validation``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, copied, flag, idle, mapped, switched

_RESUME = "the same command goes on exactly where it stopped, optimizer and data order included"
_SAVED = "checkpoints are saved at each validation (trainer.val_check_interval)"
_DDP = "Megatron-Core's data parallelism is used"
_BERT = "of the original's BERT data only"
BLOCKS = "model.data.block_infilling"

OPTIONS: Table = {
    "experiment-name": mapped("name", "gpt-345M"),
    "batch-size": mapped("model.micro_batch_size, and part of model.global_batch_size", 4),
    "gradient-accumulation-steps": mapped("part of model.global_batch_size", 1),
    "weight-decay": mapped("model.optim.weight_decay", 0.01),
    "checkpoint-activations": flag("model.activations_checkpoint_granularity=full"),
    "checkpoint-num-layers": idle("each layer is recomputed by itself, with the same result"),
    "deepspeed-activation-checkpointing": idle("recompute is this project's own", "flag"),
    "epochs": mapped("epochs; with 0: scripts/evaluate.py"),
    "clip-grad": mapped("model.optim.clip_grad", 1.0),
    "train-iters": mapped("trainer.max_steps", 0),
    "label-smoothing": absent("tasks are trained on the plain cross-entropy"),
    "log-interval": mapped("trainer.log_every_n_steps", 100),
    "summary-dir": idle("TensorBoard logs lie in the run's folder"),
    "seed": copied("model.seed", 1234),
    "reset-position-ids": idle(
        "of left-to-right models; no GLM code of the original reads it", "flag"
    ),
    "reset-attention-mask": idle(
        "of left-to-right models; no GLM code of the original reads it", "flag"
    ),
    "lr-decay-iters": mapped("model.optim.sched.max_steps"),
    "lr-decay-style": mapped("model.optim.sched.name", "linear"),
    "lr-decay-ratio": mapped("model.optim.sched.min_lr, this times lr", 0.1),
    "lr": mapped("model.optim.lr", 1.0e-4),
    "warmup": copied("model.optim.sched.warmup_ratio", 0.01),
    "switch-linear": absent("a schedule keeps its form; start anew with restore_from_path", "flag"),
    "save": mapped("exp_manager.exp_dir"),
    "new-save-directory": idle("a run's folder is <exp_dir>/<name>", "flag"),
    "save-epoch": idle("fine-tuning keeps the newest and the best weights"),
    "save-interval": idle(_SAVED),
    "no-save-optim": idle(f"{_RESUME}; a .nemo has weights only", "flag"),
    "no-save-rng": idle(f"{_RESUME}; a .nemo has weights only", "flag"),
    "load": mapped("restore_from_path, of the converted weights"),
    "no-load-optim": idle("restore_from_path takes weights only", "flag"),
    "no-load-rng": idle("restore_from_path takes weights only", "flag"),
    "no-load-lr-scheduler": idle("restore_from_path takes weights only", "flag"),
    "no-deepspeed-load": idle("restore_from_path takes weights only", "flag"),
    "finetune": flag("scripts/finetune.py"),
    "resume-dataloader": idle(_RESUME, "flag"),
    "distributed-backend": idle("NCCL on GPUs, gloo on CPUs (trainer=gpu, trainer=cpu)"),
    "DDP-impl": idle(_DDP),
    "local_rank": idle("Lightning starts the processes"),
    "block-lm": flag("a GLM; without it the original is no GLM"),
    "masked-lm": switched(f"{BLOCKS}.masked_lm"),
    "bert-prob": copied(f"{BLOCKS}.bert_prob", 0.5),
    "gpt-infill-prob": copied(f"{BLOCKS}.gpt_infill_prob", 0.5),
    "gpt-min-ratio": copied(f"{BLOCKS}.gpt_min_ratio", 0.5),
    "gap-sentence-prob": copied(f"{BLOCKS}.gap_sentence_prob", 0.0),
    "gap-sentence-ratio": copied(f"{BLOCKS}.gap_sentence_ratio", 0.15),
    "avg-block-length": copied(f"{BLOCKS}.avg_block_length", 3),
    "short-seq-prob": copied(f"{BLOCKS}.short_seq_prob", 0.0),
    "single-span-prob": copied(f"{BLOCKS}.single_span_prob", 0.0),
    "task-mask": flag(f"tokenizer with [gMASK] and [sMASK]; {BLOCKS}.task_mask, task.task_mask"),
    "no-shuffle-block": flag(f"{BLOCKS}.shuffle_blocks=false"),
    "no-block-position": flag("block_position_encoding=false of the data"),
    "sentinel-token": flag(f"{BLOCKS}.sentinel_token and model.tokenizer.sentinels"),
    "block-mask-prob": copied(f"{BLOCKS}.block_mask_prob", 0.0),
    "context-mask-ratio": copied(f"{BLOCKS}.context_mask_ratio", 0.0),
    "random-position": switched(f"{BLOCKS}.random_position"),
    "eval-batch-size": mapped("model.eval_batch_size (tasks)"),
    "eval-iters": mapped("trainer.limit_val_batches (pre-training)", 100),
    "eval-interval": mapped("trainer.val_check_interval (pre-training)", 1000),
    "eval-epoch": mapped("evaluate_every_epochs", 1),
    "eval-seq-length": absent("evaluation has the sequences of training"),
    "eval-max-preds-per-seq": idle(_BERT),
    "overlapping-eval": mapped("task.stride", 32),
}
