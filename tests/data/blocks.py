"""An independent reader of blank-infilling samples: undoes them and checks every field."""

from typing import Any

import numpy as np

from glmkd_nemo.data.config import BlockInfillingConfig
from glmkd_nemo.data.tokenizer import GLMTokenizer


def split_blocks(sample: dict[str, Any], tokenizer: GLMTokenizer) -> list[dict[str, Any]]:
    """The blocks after the context: inputs (without start), labels, place, numbers inside."""
    starts = {t.id: t.name for t in tokenizer.commands.values() if t.name.startswith("sop")}
    sep = sample["attention_mask"]
    inputs, labels = sample["input_ids"][sep:], sample["labels"][sep:]
    firsts = [i for i, token in enumerate(inputs) if token in starts]
    assert firsts[0] == 0, "the first token after the context starts a block"
    blocks = []
    for first, last in zip(firsts, [*firsts[1:], len(inputs)], strict=True):
        places = sample["position_ids"][0, sep + first : sep + last]
        assert len(set(places.tolist())) == 1, "a block has one place"
        blocks.append(
            {
                "name": starts[inputs[first]],
                "inputs": inputs[first + 1 : last].tolist(),
                "labels": labels[first:last].tolist(),
                "place": int(places[0]),
                "inside": sample["position_ids"][1, sep + first : sep + last].tolist(),
            }
        )
    return blocks


def reconstruct(
    window: np.ndarray, sample: dict[str, Any], tokenizer: GLMTokenizer, mask_id: int
) -> list[int]:
    """Text of a sample with blocks of their own places: each mask replaced by its block."""
    sep = sample["attention_mask"]
    block_at = {b["place"]: b["labels"][:-1] for b in split_blocks(sample, tokenizer)}
    text: list[int] = []
    used = set()
    for token, place in zip(sample["labels"][:sep], sample["position_ids"][0, :sep], strict=True):
        if token == mask_id and int(place) in block_at:
            text += block_at[int(place)]
            used.add(int(place))
        else:
            text.append(int(token))
    assert used == set(block_at), "every block belongs to a mask"
    assert text == window.tolist(), "masks replaced by their blocks give the text"
    return text


def check_fields(
    window: np.ndarray, sample: dict[str, Any], tokenizer: GLMTokenizer, cfg: BlockInfillingConfig
) -> None:
    """Shapes, places, numbers inside blocks, loss mask, next-token labels."""
    sep, size = sample["attention_mask"], len(sample["input_ids"])
    assert sample["labels"].shape == sample["loss_mask"].shape == (size,)
    assert sample["position_ids"].shape == (2, size)
    assert not sample["loss_mask"][:sep].any()
    assert sample["loss_mask"][sep:].all()
    places = sample["position_ids"][0, :sep]
    first = int(places[0])
    if not cfg.random_position:
        assert first == 0
    spans = split_blocks(sample, tokenizer)
    blanked = sum(len(b["labels"]) - 1 for b in spans)
    assert sep == len(window) - blanked + len(spans), "the context has one mask per block"
    assert (np.diff(places) == 1).all(), "a blank takes one position"
    assert not sample["position_ids"][1, :sep].any()
    for block in spans:
        assert block["labels"][-1] == tokenizer.eop_id
        numbers = list(range(1, len(block["labels"]) + 1))
        assert block["inside"] == (numbers if cfg.block_position_encoding else [1] * len(numbers))
        for given, wanted in zip(block["inputs"], block["labels"][:-1], strict=True):
            assert given in (wanted, tokenizer.dblock_id), "inputs are the labels, shifted"
