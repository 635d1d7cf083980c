"""Group ``Text generation``."""

from __future__ import annotations

from glmkd_nemo.translate.option import Table, absent, mapped

_TEXT = "of generate_samples.py: generation."

OPTIONS: Table = {
    "temperature": mapped(f"{_TEXT}temperature", 1.0),
    "top_p": mapped(f"{_TEXT}top_p", 0.0),
    "top_k": mapped(f"{_TEXT}top_k", 0),
    "out-seq-length": mapped(f"{_TEXT}max_new_tokens", 256),
    "num-beams": mapped("task.num_beams", 1),
    "length-penalty": mapped("task.length_penalty", 0.0),
    "no-repeat-ngram-size": mapped("task.no_repeat_ngram_size", 0),
    "min-tgt-length": mapped("task.min_tgt_length", 0),
    "select-topk": absent("beams are never drawn, always the best ones", "flag"),
    "blank-maskratio": mapped("task.mask_ratio", 0.1),
}
