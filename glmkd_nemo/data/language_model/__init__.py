"""LAMBADA, and perplexity of text in overlapping windows."""

from glmkd_nemo.data.language_model.config import LanguageModelConfig, PerplexityConfig
from glmkd_nemo.data.language_model.lambada import Lambada
from glmkd_nemo.data.language_model.windows import Windows

__all__ = ["Lambada", "LanguageModelConfig", "PerplexityConfig", "Windows"]
