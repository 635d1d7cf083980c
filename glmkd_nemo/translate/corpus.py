"""Corpora and blank infilling: ``model.data``."""

from __future__ import annotations

from pathlib import Path

from glmkd_nemo.data.config import BlockInfillingConfig
from glmkd_nemo.data.span_sampling import SpanLengths
from glmkd_nemo.translate.command import Plan
from glmkd_nemo.translate.given import Given
from glmkd_nemo.translate.tables import PROGRAM

# names of corpora that the original's own code has the paths of
NAMED = (
    *("wikipedia", "wikipedia-key", "openwebtext", "zhihu", "zhidao", "baike", "test", "wikibook"),
    *("bert-base", "bert-large", "cc-news", "pile", "stories", "wudao"),
)
_BLOCKS = "model.data.block_infilling"


def corpora(given: Given, plan: Plan) -> None:
    """Prefixes, split, windows and how text is blanked.

    Raises:
        ValueError: probabilities that cannot be.
    """
    for name, key in (("train-data", "prefixes"), ("valid-data", "valid_prefixes")):
        _prefixes(given, plan, name, key)
    _prefixes(given, plan, "test-data", "test_prefixes")
    plan.set("model.data.split", str(given.get("split") or PROGRAM["split"].default))
    plan.set("model.data.num_workers", int(given.of("num-workers")))
    if "sample-one-document" in given:
        plan.set("model.data.sample_across_documents", False)
    for name, option in PROGRAM.items():
        if option.key is not None and option.key.startswith("model.data."):
            plan.set(option.key, given.of(name))
    plan.set(f"{_BLOCKS}.encoder_decoder", "encoder-decoder" in given)
    plan.set(f"{_BLOCKS}.sentinel_token", "sentinel-token" in given)
    plan.set(f"{_BLOCKS}.task_mask", "task-mask" in given)
    plan.set(f"{_BLOCKS}.shuffle_blocks", "no-shuffle-block" not in given)
    plan.set(f"{_BLOCKS}.block_position_encoding", "no-block-position" not in given)
    _lengths(given, plan)


def _prefixes(given: Given, plan: Plan, name: str, key: str) -> None:
    found = given.get(name)
    if not found:
        return
    plan.set(f"model.data.{key}", [f"data/{p}" if p in NAMED else p for p in found])
    for corpus in found:
        if corpus in NAMED:
            plan.note(
                f"--{name}={corpus} is a corpus that the original's code names: index its text "
                f"once by scripts/preprocess_data.py --output data/{corpus}"
            )
        elif not Path(corpus).suffix:
            plan.note(f"--{name}={corpus}: index its text by scripts/preprocess_data.py")


def _lengths(given: Given, plan: Plan) -> None:
    """A window has --seq-length tokens of text; a sequence its blocks too."""
    window = int(given.of("seq-length"))
    keys = {
        option.key.rpartition(".")[2]: given.of(name)
        for name, option in PROGRAM.items()
        if option.key is not None and option.key.startswith(_BLOCKS)
    }
    length = window
    if not keys["masked_lm"]:  # each short span costs two positions, see data/corpus.py
        lengths = SpanLengths(keys["avg_block_length"], BlockInfillingConfig.max_block_length)
        ratio = BlockInfillingConfig.bert_ratio
        length += 2 * lengths.count_bound(int(ratio * window))
    plan.set("model.data.window", window)
    plan.set("model.encoder_seq_length", -(-length // 64) * 64)
