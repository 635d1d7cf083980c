"""Features -> batches: padded and cut choices, forms, fixed numbers, and datasets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glmkd_nemo.data.superglue import SuperGLUEConfig, SuperGLUEDataset, collate
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.distill.method import batch_of


@pytest.fixture
def rows(collections: Path) -> Path:
    return collections / "recorded" / "superglue_raw"


def of(rows: Path, bert: GLMTokenizer, task: str, split: str = "train", **options):
    folder = {"record": "ReCoRD", "rte": "RTE", "cb": "CB"}.get(task, task.split("_")[0].upper())
    cfg = SuperGLUEConfig(task, str(rows / folder), seq_length=64, **options)
    return SuperGLUEDataset(cfg, bert, split)


def test_missing_choices_are_copies_of_the_first_and_masked(rows: Path, bert: GLMTokenizer):
    """Numbers as recorded of the reference's collate (``collate_record.json``)."""
    data = of(rows, bert, "record")
    batch = batch_of(data.collate(data[0:4]))
    assert batch.task is not None
    assert batch.task.choice_mask is not None
    assert batch.task.choice_mask.tolist() == [[1] * 3 + [0] * 7] + [[1] * 10] * 3
    assert batch.attention_mask.view(4, 10).tolist() == [
        [62, 62, 61, *[62] * 7],
        [42] * 10,
        [42] * 10,
        [41] * 10,
    ]
    assert batch.input_ids.shape == (40, 64)
    assert torch.equal(batch.input_ids[0], batch.input_ids[9])


def test_choices_beyond_a_fixed_number_are_cut_but_never_the_right_one(
    rows: Path, bert: GLMTokenizer
):
    data = of(rows, bert, "record")
    batch = batch_of(collate(data[0:4], data.form, choices=2))
    assert batch.attention_mask.view(4, 2).tolist() == [[62, 62], [42, 42], [42, 42], [41, 41]]
    copa = of(rows, bert, "copa")
    right_is_second = copa[3]
    assert right_is_second.label == 1
    one = batch_of(collate([right_is_second], copa.form, choices=1))
    assert one.task is not None
    assert one.task.label.tolist() == [0]
    assert torch.equal(one.input_ids[0], torch.from_numpy(right_is_second.text[1]))


def test_fixed_choices_lose_no_candidate_of_an_evaluation(rows: Path, bert: GLMTokenizer):
    assert of(rows, bert, "record", fixed_choices=True).choices == 10
    dev = of(rows, bert, "record", "dev", fixed_choices=True)
    assert dev.choices == 14
    assert dev.collate(dev[0:1])["input_ids"].shape == (14, 64)
    assert of(rows, bert, "copa", fixed_choices=True).choices is None


def test_single_tokens(rows: Path, bert: GLMTokenizer):
    data = of(rows, bert, "cb")
    batch = batch_of(data.collate(data[0:3]))
    assert data.form == "single_token"
    assert data.labels == ("entailment", "contradiction", "neutral")
    assert batch.task is not None
    assert batch.task.label.tolist() == [0, 1, 2]
    assert batch.labels[batch.target].tolist() == bert.encode("yes no maybe")


@pytest.mark.parametrize("task", ["copa", "record", "wsc"])
def test_one_context_holds_the_same_answers(rows: Path, bert: GLMTokenizer, task: str):
    """The fast form predicts the tokens that the form with a context per answer predicts."""
    plain, fast = of(rows, bert, task), of(rows, bert, task, fast_decode=True)
    a, b = (batch_of(data.collate(data[0:2])) for data in (plain, fast))
    assert a.task is not None
    assert b.task is not None
    assert a.labels[a.target].tolist() == b.labels[b.target].tolist()
    assert b.task.choices == len(a.input_ids) // 2
    assert len(b.input_ids) == 2
    masks = a.task.choice_mask, b.task.choice_mask
    assert (masks[0] is None) == (masks[1] is None)


def test_pooled_choices_and_pairs(rows: Path, bert: GLMTokenizer):
    copa = of(rows, bert, "copa", cloze=False)
    assert copa.collate(copa[0:2])["input_ids"].shape == (4, 64)
    rte = of(rows, bert, "rte", cloze=False)
    assert rte.collate(rte[0:2])["input_ids"].shape == (2, 64)


def test_generative_items_have_the_fields_of_pretraining(rows: Path, bert: GLMTokenizer):
    data = of(rows, bert, "wsc_generative")
    fields = data.collate(data[0:2])
    assert sorted(fields) == sorted(
        ["input_ids", "position_ids", "attention_mask", "labels", "loss_mask"]
    )
    answer = fields["labels"][1][fields["loss_mask"][1].bool()]
    assert answer.tolist() == [*bert.encode("susan"), bert.eop_id]


def test_few_shot_is_for_training_only(rows: Path, bert: GLMTokenizer):
    assert len(of(rows, bert, "cb", few_shot=2)) == 2
    assert len(of(rows, bert, "cb", "dev", few_shot=2)) == 3


def test_scored_wsc_needs_candidates(tmp_path: Path, bert: GLMTokenizer):
    (tmp_path / "train.jsonl").write_text(
        '{"idx": 0, "label": true, "text": "Anna saw that she won.", "target": {"span1_text": '
        '"Anna", "span1_index": 0, "span2_text": "she", "span2_index": 3}}\n'
    )
    with pytest.raises(ValueError, match=r"no row has candidates.* task=wsc_generative"):
        SuperGLUEDataset(SuperGLUEConfig("wsc", str(tmp_path)), bert, "train")
    assert len(SuperGLUEDataset(SuperGLUEConfig("wsc_generative", str(tmp_path)), bert, "train"))
