"""Distillation of GLM models as a plugin of NeMo, on Megatron-Core.

Importing the package makes the start quiet (:mod:`glmkd_nemo.engine.quiet`) and lets Megatron-Core
run where there is no CUDA (:mod:`glmkd_nemo.engine.cpu`); NeMo and Megatron-Core themselves are
imported only by the modules that use them.
"""

from glmkd_nemo.engine import cpu as _cpu
from glmkd_nemo.engine import quiet as _quiet

__version__ = "0.1.0"

_quiet.install()
_cpu.install()
