"""Text generation: greedy and beam search, drawing, in the blanks of a prompt."""

from glmkd_nemo.generation.config import GenerationConfig
from glmkd_nemo.generation.generator import Generation, Generator

__all__ = ["Generation", "GenerationConfig", "Generator"]
