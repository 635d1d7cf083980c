"""Options of the ``deepspeed`` launcher, and those that DeepSpeed adds to programs."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, flag, idle, mapped

_STARTS = "Lightning, torchrun or srun starts the processes"
_FILE = "CUDA_VISIBLE_DEVICES and trainer.devices, trainer.num_nodes"

OPTIONS: Table = {
    "H": mapped(_FILE),
    "hostfile": mapped(_FILE),
    "i": mapped(_FILE),
    "include": mapped(_FILE),
    "e": mapped(_FILE),
    "exclude": mapped(_FILE),
    "num_nodes": mapped("trainer.num_nodes"),
    "num_gpus": mapped("trainer.devices"),
    "num_accelerators": mapped("trainer.devices"),
    "master_port": idle("Lightning chooses a port; MASTER_PORT sets one"),
    "master_addr": idle("srun or torchrun says which; MASTER_ADDR sets one"),
    "node_rank": idle(_STARTS),
    "launcher": idle(_STARTS),
    "launcher_args": idle(_STARTS),
    "module": idle(_STARTS, "flag"),
    "no_python": idle(_STARTS, "flag"),
    "no_local_rank": idle(_STARTS, "flag"),
    "no_ssh": idle(_STARTS, "flag"),
    "no_ssh_check": idle(_STARTS, "flag"),
    "force_multi": idle(_STARTS, "flag"),
    "save_pid": idle(_STARTS, "flag"),
    "enable_each_rank_log": idle("scripts/launch.py keeps a log of each rank"),
    "autotuning": absent("scripts/plan.py searches for the fastest layout that fits"),
    "bind_cores_to_rank": idle(_STARTS, "flag"),
    "bind_core_list": idle(_STARTS),
    "ssh_port": idle(_STARTS),
    "venv_script": idle(_STARTS),
    "log_level": idle("NEMO_LOG_LEVEL sets how much is printed"),
    "q": idle("NEMO_LOG_LEVEL sets how much is printed", "flag"),
    "quiet": idle("NEMO_LOG_LEVEL sets how much is printed", "flag"),
}
OF_PROGRAMS: Table = {
    "deepspeed": flag("the settings of --deepspeed_config"),
    "deepspeed_config": mapped("batch sizes, optimizer, precision"),
    "deepscale": idle("an old name of --deepspeed", "flag"),
    "deepscale_config": idle("an old name of --deepspeed_config"),
    "deepspeed_mpi": idle(_STARTS, "flag"),
}
_RANKS = "srun, torchrun or scripts/launch.py says which"
TORCH: Table = {
    "nproc_per_node": mapped("trainer.devices"),
    "nnodes": mapped("trainer.num_nodes"),
    **{name: idle(_RANKS) for name in ("node_rank", "master_addr", "local_addr")},
    "master_port": OPTIONS["master_port"],
    **{name: idle(_STARTS) for name in ("rdzv_backend", "rdzv_endpoint", "rdzv_id", "rdzv_conf")},
    **{name: idle(_STARTS) for name in ("max_restarts", "monitor_interval", "start_method")},
    **{name: idle(_STARTS, "flag") for name in ("standalone", "use_env", "no_python", "module")},
    "role": idle("it has no meaning for a run"),
    **{
        name: idle("scripts/launch.py keeps a log of each rank")
        for name in ("log_dir", "redirects", "r", "tee", "t", "local_ranks_filter")
    },
}
