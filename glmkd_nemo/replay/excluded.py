"""Cases that do not count."""

from __future__ import annotations

from fnmatch import fnmatch

# Cases that record a fault of the reference, which this project mends: they do not count.
EXCLUDED = {
    "kd_mse_mask_ignored_bug": "the reference's MSE ignores its mask (misspelt keyword)",
    "kd_readme_lossmask_3choices": "the reference lets padded choices into the soft loss",
    "mixbaseline_*": "the reference's combination counts losses twice",
    "theseus_*_seed1000": "the reference may leave a step without a student layer",
    "theseus_*_seed1001": "the reference may leave a step without a student layer",
    "trim_hidden_*": "the reference truncates the fused query-key-value block",
    "ckd_modern_torch_nan": "the reference gives NaN on modern torch",
}


def why_excluded(name: str) -> str | None:
    """Why a case of this name does not count, or ``None``."""
    for pattern, reason in EXCLUDED.items():
        if fnmatch(name, pattern):
            return reason
    return None
