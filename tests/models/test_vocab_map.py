"""GLMD's vocabulary map: tables as recorded from the reference, and models that have one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glmkd_nemo.distill.mapped_input import read_by
from glmkd_nemo.distill.method import Batch, ModelShape
from glmkd_nemo.distill.objective import Objective, term_from_dict
from glmkd_nemo.engine.blank_filling import sums
from glmkd_nemo.models.build_vocab_map import fill_vocab_map, kept_section, teacher_of_map
from glmkd_nemo.models.vocab_map import (
    Tables,
    VocabMap,
    build_tables,
    by_similarity,
    by_token,
    from_original,
    kept_size,
)
from tests.launch import run_ranks
from tests.models import tiny
from tests.models.vocab_cases import NAMES, SIZE, check, tables
from tests.models.words import Words, write

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
UNK = 6  # of the reference's test tokenizer

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """Order of tokens and the maps that the reference built from it."""
    return json.loads((HERE / "fixtures" / "vocab_maps.json").read_text())


@pytest.mark.parametrize("how", ["unk", "decoder", "cosine", "euclidean"])
def test_tables_are_those_of_the_reference(recorded: dict[str, Any], how: str):
    replace = by_token(UNK)
    if how != "unk":
        teacher = load_file(GOLDEN / "models" / "teacher_4x64.safetensors")
        replace = by_similarity(teacher["word_embeddings.weight"], how)
    found = build_tables(recorded["order"], 64, 128, replace)
    assert found.row_of_id.tolist() == recorded["row_of_id"][how]
    assert found.kept_ids.tolist() == recorded["order"][:64]


def test_tables_of_an_original_checkpoint():
    paras = {
        "origin_id_to_target_pos": torch.tensor([1, 0, 1, 1]),
        "origin_id_mask_map": torch.tensor([True, True, False, False]),
        "target_pos_to_origin_id": torch.tensor([1, 0, 0, 0]),
    }
    found = from_original(paras)
    assert found.kept_ids.tolist() == [1, 0]
    assert found.row_of_id.tolist() == [1, 0, 1, 1]


def test_similarity_in_chunks_and_by_definition():
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(3000, 4, generator=g)
    removed, kept = torch.arange(500, 3000), torch.arange(500)
    mine, theirs = vectors[kept], vectors[removed]
    nearest = by_similarity(vectors, "euclidean")(removed, kept)
    assert torch.equal(nearest, torch.cdist(theirs, mine).argmin(-1))
    cosine = torch.nn.functional.cosine_similarity(theirs[:, None], mine[None], dim=-1)
    assert torch.equal(by_similarity(vectors, "cosine")(removed, kept), cosine.argmax(-1))


def test_sizes():
    assert kept_size(0.5, 30524, 128) == 15360  # as recorded from the reference
    assert kept_size(0.999, 100, 128) == 100
    assert kept_size(64.0, 100, 128) == 64
    assert kept_size(100, 100, 128) == 100
    for wrong in (0, -1, 101, 2.5, None):
        with pytest.raises(ValueError, match="number of tokens from 1 to 100"):
            kept_size(wrong, 100, 128)


def test_orders_that_are_none():
    for order in ([0, 0, 1], [0, 2], [0, 1, 2, 3]):
        with pytest.raises(ValueError, match=r"scripts/sort_vocab\.py"):
            build_tables(order, 1, 3, by_token(0))
    with pytest.raises(ValueError, match="token 2 is to stand for others, but is not kept"):
        build_tables([0, 1, 2], 2, 3, by_token(2))


def test_ids_beyond_the_table_are_removed_last():
    found = build_tables([2, 0, 1], 2, 5, by_token(0))
    assert found.kept_ids.tolist() == [2, 0]
    assert found.row_of_id.tolist() == [1, 1, 0, 1, 1]


def test_a_map_that_is_empty_says_so():
    empty = VocabMap(2, 5)
    with pytest.raises(ValueError, match=r"model\.vocab_map\.table"):
        empty.rows(torch.tensor([1]))
    empty.fill(Tables(torch.tensor([3, 1]), torch.tensor([0, 1, 1, 0, 0])))
    assert empty.rows(torch.tensor([[1, 4]])).tolist() == [[1, 0]]
    assert empty.replaced(torch.tensor([0, 1, 2, 3, 4])).tolist() == [3, 1, 1, 3, 3]
    assert set(empty.state_dict()) == {"kept_ids", "row_of_id"}


def model(unmap: bool, kept: int = SIZE) -> Any:
    """A tiny model that keeps some tokens."""
    section = {"size": kept, "unmap_output": unmap}
    found = tiny.model(vocab_map=section, make_vocab_size_divisible_by=8)
    found.vocab_map.fill(tables(tiny.VOCAB, kept))
    return found


@pytest.mark.parametrize("unmap", [False, True])
def test_a_mapped_model_is_a_plain_one_with_shared_rows(unmap: bool):
    """Logits, loss, and the gradient of the small table: the sum over the tokens of a row."""
    mapped, plain = model(unmap), tiny.model(make_vocab_size_divisible_by=8)
    row_of_id = mapped.vocab_map.row_of_id
    own = dict(mapped.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name == "embedding.word_embeddings.weight":
                parameter[: tiny.VOCAB] = own[name][row_of_id]
            else:
                parameter.copy_(own[name])
    batch, labels = tiny.batch(), tiny.labels()
    logits, whole = mapped(**batch), plain(**batch)
    expected = whole[..., mapped.vocab_map.kept_ids] if unmap else whole
    torch.testing.assert_close(logits, expected)
    loss = mapped(**batch, labels=labels).mean()
    loss.backward()
    target = row_of_id[labels] if unmap else labels
    rows = torch.nn.functional.cross_entropy(expected.flatten(0, 1), target.flatten())
    rows.backward()
    torch.testing.assert_close(loss, rows)
    by_token = plain.embedding.word_embeddings.weight.grad[: tiny.VOCAB]
    by_row = torch.zeros_like(own["embedding.word_embeddings.weight"])
    by_row.index_add_(0, row_of_id, by_token)
    torch.testing.assert_close(mapped.embedding.word_embeddings.weight.grad, by_row)


def test_accuracy_counts_words_that_share_a_logit():
    mapped = model(False)
    logits = mapped(**tiny.batch(), materialize=False)
    best = logits.all().argmax(-1)
    stand_in = mapped.vocab_map.row_of_id[best]
    same = [(mapped.vocab_map.row_of_id == row).nonzero()[-1, 0] for row in stand_in.flatten()]
    labels = torch.stack(same).view_as(best)
    assert not torch.equal(labels, best)
    assert int(sums(logits, labels, torch.ones_like(labels))[2]) == labels.numel()
    assert int(sums(logits, (stand_in + 1) % SIZE, torch.ones_like(labels))[2]) < labels.numel()


def test_a_map_as_large_as_the_vocabulary_only_changes_the_order():
    mapped, plain = model(False, tiny.VOCAB), tiny.model()
    own = dict(mapped.named_parameters())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name == "embedding.word_embeddings.weight":
                parameter[: tiny.VOCAB] = own[name][mapped.vocab_map.row_of_id]
            else:
                parameter.copy_(own[name])
    torch.testing.assert_close(mapped(**tiny.batch()), plain(**tiny.batch()))


def small(size: int) -> Any:
    """Something with a map to fill."""
    config = SimpleNamespace(mapped_vocab_size=size, vocab_size=6)
    return SimpleNamespace(config=config, vocab_map=VocabMap(size, 6))


def test_filling_from_the_configuration(tmp_path: Path):
    table = write(tmp_path / "good.tsv", [1, 0, 4, 2, 3, 5])
    new = small(3)
    fill_vocab_map(new, {"size": 3, "table": table}, Words(), {})
    assert new.vocab_map.kept_ids.tolist() == [1, 0, 4]
    assert new.vocab_map.row_of_id.tolist() == [1, 0, 0, 0, 2, 0]
    for section in (None, {"size": 3}, {"size": 3, "table": str(tmp_path / "gone.tsv")}):
        left = small(3)
        fill_vocab_map(left, section, Words(), {})
        with pytest.raises(ValueError, match="the vocabulary map is empty"):
            left.vocab_map.rows(torch.tensor([0]))
    lost = write(tmp_path / "lost.tsv", [1, 2, 3, 4, 5, 0])
    with pytest.raises(ValueError, match="keeps 3 tokens and would remove a, which"):
        fill_vocab_map(small(3), {"size": 3, "table": lost}, Words(), {})


def test_which_teacher():
    table = {"table": "x.tsv"}
    assert teacher_of_map(None, ["t0"]) is None
    assert teacher_of_map({"replace": "cosine"}, []) is None  # the tables come with the weights
    assert teacher_of_map({**table, "replace": "decoder"}, ["t0"]) == "t0"
    assert teacher_of_map({**table, "replace": "decoder", "teacher": "b"}, ["a", "b"]) == "b"
    for section, words in (
        ({"replace": "cosin"}, "Did you mean 'cosine'"),
        ({"replace": "unk", "teacher": "t0"}, "teacher=t0 has no effect with replace=unk"),
        ({"replace": "decoder", "teacher": "t9"}, "t9.*; there are a, b"),
        ({"replace": "decoder"}, "teacher=None.*; there are a, b"),
    ):
        with pytest.raises(ValueError, match=words):
            teacher_of_map({**table, **section}, ["a", "b"])


def test_a_trained_model_needs_no_table():
    section = {"size": 0.5, "table": "x.tsv", "replace": "decoder", "unmap_output": True}
    assert kept_section(section) == {"size": 0.5, "unmap_output": True}
    assert kept_section(None) is None


def test_logits_of_other_tokens_need_a_map():
    logits = tiny.model()(**tiny.batch(), materialize=False)
    with pytest.raises(ValueError, match="mask_map compares kept tokens only"):
        logits.kept()


def test_what_a_teacher_reads():
    """Where its term asks for it, the tokens that the student's map leaves, all else the same."""
    terms = {"glmd": {"method": "glmd", "teacher_input_map": True}}
    objective = objective_of(terms)
    fields = {"labels": tiny.labels(), "loss_mask": torch.ones(2, tiny.SEQUENCE)}
    batch = Batch(**tiny.batch(), **fields)
    mapped = model(False)
    read = read_by("t0", batch, objective, mapped)
    assert torch.equal(read.input_ids, mapped.vocab_map.replaced(batch.input_ids))
    assert not torch.equal(read.input_ids, batch.input_ids)
    assert read.labels is batch.labels
    plain = objective_of({"glmd": {"method": "glmd"}})
    assert read_by("t0", batch, plain, mapped) is batch
    with pytest.raises(ValueError, match="teacher_input_map asks for the student's tokens"):
        read_by("t0", batch, objective, tiny.model())


def objective_of(terms: dict[str, dict[str, Any]]) -> Objective:
    """With one teacher, ``t0``."""
    read = {name: term_from_dict(name, node, ["t0"]) for name, node in terms.items()}
    shape = ModelShape(3, 16, 4, tiny.VOCAB)
    return Objective(read, shape, {"t0": shape})


@pytest.mark.parametrize("name", NAMES)
def test_views_of_a_head(name: str):
    assert check(name, False, 12, lambda shard: shard) == []


@pytest.fixture(scope="session")
def on_two_ranks() -> dict[str, list[str]]:
    """What is wrong, by check."""
    return run_ranks("tests.models.vocab_ranks:everything", 2, timeout=280)


@pytest.mark.timeout(300)
def test_two_ranks_give_what_one_gives(on_two_ranks: dict[str, list[str]]):
    assert set(on_two_ranks) == {*NAMES, "filling", "checkpoint"}
    wrong = {name: rows for name, rows in on_two_ranks.items() if rows}
    assert not wrong
