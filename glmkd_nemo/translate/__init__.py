"""The original's command lines in the terms of this project."""

from __future__ import annotations

from glmkd_nemo.translate.command import Command
from glmkd_nemo.translate.translator import translate

__all__ = ["Command", "translate"]
