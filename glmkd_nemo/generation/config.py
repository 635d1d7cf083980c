"""How text is generated; the names and meanings are those of transformers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EARLY_STOPPING = (True, False, "never")


@dataclass(frozen=True)
class GenerationConfig:
    """Greedy search by default; beams with ``num_beams``, sampling with ``do_sample``.

    Attributes:
        max_new_tokens: longest filling of a blank, in tokens, the end token included.
        min_new_tokens: the end token is not allowed before these many others.
        num_beams: hypotheses kept; 1: greedy search.
        length_penalty: scores are divided by length to this power: above 0 favours long texts.
        early_stopping: when beam search ends: true: once there are ``num_beams`` finished
            hypotheses; false: once a better one is unlikely; "never": once there can be none.
        no_repeat_ngram_size: no n-gram of this many tokens comes twice in a blank (0: any may).
        do_sample: draw tokens instead of taking the most likely one.
        temperature: logits are divided by it before drawing.
        top_k: draw from these many most likely tokens (0: from all).
        top_p: draw from the fewest most likely tokens that have this probability together.
        seed: of drawing; a prompt's draws depend on the seed and its index, not on the batch.
        suppress_tokens: ids that are never generated.
        begin_suppress_tokens: ids that are not generated first.
        use_cache: keep keys and values of what was read; false computes all anew for each token.

    Raises:
        ValueError: a value that cannot work, by name.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 1234
    suppress_tokens: list[int] = field(default_factory=list)
    begin_suppress_tokens: list[int] = field(default_factory=list)
    use_cache: bool = True

    def __post_init__(self) -> None:
        at_least: dict[str, float] = {"max_new_tokens": 1, "num_beams": 1, "min_new_tokens": 0}
        at_least |= {"no_repeat_ngram_size": 0, "top_k": 0, "seed": 0}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least:g} or more.")
        if self.min_new_tokens >= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} leaves no room for an end token within "
                f"max_new_tokens={self.max_new_tokens}: lower the one or raise the other."
            )
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}: give a number above 0.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: give a probability above 0, at most 1.")
        if self.early_stopping not in EARLY_STOPPING:
            raise ValueError(f"early_stopping={self.early_stopping!r} is not in {EARLY_STOPPING}.")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample with num_beams > 1: sample, or search with beams.")

    def for_transformers(self, end_ids: list[int], pad_id: int, cached: bool) -> Any:
        """The same as transformers' ``GenerationConfig``, but for drawing (see ``search.py``)."""
        from transformers import GenerationConfig as Theirs

        beams: dict[str, Any] = {}
        if self.num_beams > 1:
            beams = {"length_penalty": self.length_penalty, "early_stopping": self.early_stopping}
        return Theirs(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens or None,
            num_beams=self.num_beams,
            no_repeat_ngram_size=self.no_repeat_ngram_size or None,
            suppress_tokens=self.suppress_tokens or None,
            begin_suppress_tokens=self.begin_suppress_tokens or None,
            use_cache=cached,
            eos_token_id=end_ids,
            pad_token_id=pad_id,
            return_dict_in_generate=True,
            output_scores=self.num_beams > 1,
            **beams,
        )
