"""SuperGLUE (arXiv 1905.00537): official files -> examples -> cloze questions -> batches.

``read_examples`` reads a file strictly, ``build_feature`` turns an example into the arrays that the
reference makes of it, ``collate`` stacks them, and ``SuperGLUEDataset`` does all three.
"""

from glmkd_nemo.data.superglue.collate import collate
from glmkd_nemo.data.superglue.config import (
    LABELS,
    TASKS,
    SuperGLUEConfig,
    file_of,
    form_of,
    head_kind,
    num_classes,
    task_name,
)
from glmkd_nemo.data.superglue.dataset import SuperGLUEDataset
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.features import Feature, build_feature
from glmkd_nemo.data.superglue.readers import read_examples
from glmkd_nemo.data.superglue.rows import BadRow

__all__ = [
    "LABELS",
    "TASKS",
    "BadRow",
    "Example",
    "Feature",
    "SuperGLUEConfig",
    "SuperGLUEDataset",
    "build_feature",
    "collate",
    "file_of",
    "form_of",
    "head_kind",
    "num_classes",
    "read_examples",
    "task_name",
]
