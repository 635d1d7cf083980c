"""Options of ``auto_tune.py``; those that it does not know it hands to each run."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_PORT = "model parallelism splits a .nemo when it is loaded"
TASKS = (
    *("copa", "wsc_generative", "cb", "rte", "boolq", "wic", "wsc", "multirc", "record"),
    *("zero_lambada", "zero_lambada_uni", "zero_lm", "zero_lm_uni", "zero_wikitext"),
    *("seq_blank", "seq_cnndm_org", "seq_cnndm", "seq_xsum", "seq_gigaword"),
)

OPTIONS: Table = {
    "py_file": idle("finetune.py and finetune_glm.py are scripts/finetune.py here"),
    "gpus": mapped("CUDA_VISIBLE_DEVICES and trainer.devices, or gpus", "6"),
    "model": mapped("the options of one of its models", "block_tiny6"),
    "model_path": mapped("restore_from_path, of the converted weights"),
    "task_t_load": mapped("the teachers of each task"),
    "task_t_load_path": mapped("the file with the teachers of each task"),
    "save_sub": idle("runs lie in folders named after task and method"),
    "test": idle("nothing runs without --run", "flag"),
    "epoch_type": mapped("epochs of each task", "EPOCH_SINGLE"),
    "epoch_rate": mapped("a factor of epochs", 1.0),
    "tasks": mapped("tasks", "copa,wsc_generative,cb,rte,boolq,wic,wsc,multirc,record"),
    "script": mapped("what the tasks are", "finetune_superglue"),
    "mask_ratio": mapped("task.mask_ratio", 0.1),
    "big_task_gpus": absent("all tasks run on the same GPUs: tune the large one by itself"),
    "big_task": absent("all tasks run on the same GPUs: tune the large one by itself"),
    "big_task_dsc_suffix": absent("all tasks run on the same GPUs: tune the large one by itself"),
    "show_tune": absent("python scripts/tune.py out=... --show shows results"),
    "rate_arg_epochs": mapped("a factor of epochs", 1.0),
    "del_checkpoint_activations": flag("model.activations_checkpoint_granularity=null"),
    "del_fp16": flag("trainer.precision=32"),
    "fix_module_parameters_mp": idle(_PORT),
    "ds_train_micro_batch_size_per_gpu": mapped("model.micro_batch_size"),
    "ds_gradient_accumulation_steps": mapped("part of model.global_batch_size"),
    "ds_optimizer__params__lr": mapped("model.optim.lr"),
    "rate_ds_train_micro_batch_size_per_gpu": mapped("a factor of model.micro_batch_size", 1.0),
    "rate_ds_gradient_accumulation_steps": mapped("a factor of the accumulation steps", 1.0),
    **{f"{task}_model_path": mapped("restore_from_path of that task") for task in TASKS},
}
