"""Metrics of language-model tasks, against brute force on a tiny model."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glmkd_nemo.data.language_model import LanguageModelConfig, PerplexityConfig
from glmkd_nemo.data.loader import collate
from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.engine.blank_filling import sums
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.tasks.language_model import LambadaTask, PerplexityTask
from tests.data.words import SPECIAL, tokenizer
from tests.distill.single import one_rank
from tests.models import tiny

TEXT = "the cat sat on the mat , a b c d e f g h i j on the cat"
SIZE, STRIDE = 9, 4  # tokens of a window, new ones of the next


@pytest.fixture(scope="module")
def net() -> Any:
    with one_rank(), torch.no_grad():
        yield tiny.model()


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    made = tokenizer(tmp_path)
    assert made.vocab_size <= tiny.VOCAB
    return made


def scores(net: GLMModel, items: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The four sums of each item."""
    found = []
    for item in items:
        b = collate([item])
        handle = net(b["input_ids"], b["position_ids"], b["attention_mask"], materialize=False)
        nats, tokens, right = sums(handle, b["labels"], b["loss_mask"]).tolist()
        found.append(np.array([nats, tokens, right, float(right == tokens)]))
    return found


def nats_of(net: GLMModel, context: list[int], before: list[int], target: int) -> float:
    """-log p of a token by a forward pass of its own, nothing after it being there."""
    ids = torch.tensor([[*context, *before]])
    mask = context.index(SPECIAL.index("[MASK]"))
    place = [*range(len(context)), *[mask] * len(before)]
    inside = [*[0] * len(context), *range(1, len(before) + 1)]
    logits = net(ids, torch.tensor([[place, inside]]), torch.tensor([len(context)]))
    return -float(logits[0, -1].log_softmax(0)[target])


@pytest.mark.parametrize("unidirectional", [False, True])
def test_windows_give_the_perplexity_of_brute_force(
    net: GLMModel, words: GLMTokenizer, tmp_path: Path, unidirectional: bool
) -> None:
    (tmp_path / "wiki.txt").write_text(TEXT)
    options = {"test_file": "wiki.txt", "unidirectional": unidirectional, "detokenizer": "none"}
    cfg = PerplexityConfig(data_dir=str(tmp_path), seq_length=SIZE + 1, stride=STRIDE, **options)
    task = PerplexityTask(cfg, words)
    found = task.metrics("test", scores(net, task.dataset("test")))

    ids, total = words.encode(TEXT), 0.0
    for t in range(1, len(ids)):
        window = max(math.ceil((t + 1 - SIZE) / STRIDE), 0)  # the first that reaches the token
        start = window * STRIDE
        seen = start + (SIZE - STRIDE) if window and not unidirectional else start + 1
        context = [words.cls_id, *ids[start:seen], words.mask_id]
        total += nats_of(net, context, [words.sop_id, *ids[seen:t]], ids[t])
    n = len(ids) - 1
    assert found["ppl"] == pytest.approx(math.exp(total / n), rel=1e-6)
    assert found["bits_per_token"] == pytest.approx(total / n / math.log(2), rel=1e-6)
    assert len(TEXT.split(" ")) == 20
    assert found["word_ppl"] == pytest.approx(math.exp(total / 19), rel=1e-6)


def test_lambada_needs_all_tokens_of_the_word(
    net: GLMModel, words: GLMTokenizer, tmp_path: Path
) -> None:
    (tmp_path / "l.jsonl").write_text('{"text": "the cat sat abc"}\n{"text": "on the mat"}\n')
    cfg = LanguageModelConfig(data_dir=str(tmp_path), test_file="l.jsonl", seq_length=16)
    task = LambadaTask(cfg, words)
    context = [words.cls_id, *words.encode("the cat sat"), words.mask_id, words.eos_id]
    before = [words.sop_id]
    total = 0.0
    for target in words.encode("abc"):
        total += nats_of(net, context, before, target)
        before.append(target)
    found = scores(net, task.dataset("test"))
    assert found[0][:2] == pytest.approx([total, 3], rel=1e-6)
    every = [np.array([6.0, 3, 2, 0]), np.array([1.0, 1, 1, 1])]
    assert task.metrics("test", every) == {
        "accuracy": 0.5,
        "ppl": pytest.approx(math.exp(3.5)),
        "bits_per_token": pytest.approx(7 / 4 / math.log(2)),
    }
    (file,) = task.write_predictions("test", every, tmp_path)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[1] == {"line": 2, "word": "mat", "right": True, "nats": 1.0}


def test_scores_of_a_part_are_refused(words: GLMTokenizer, tmp_path: Path) -> None:
    (tmp_path / "wiki.txt").write_text(TEXT)
    cfg = PerplexityConfig(data_dir=str(tmp_path), test_file="wiki.txt", seq_length=9, stride=4)
    task = PerplexityTask(cfg, words)
    with pytest.raises(ValueError, match=r"scores of 1 items of 4: all are needed"):
        task.metrics("test", [np.zeros(4)])
    windows = [np.array([1000.0 * s[1], *s[1:]]) for s in fake(task)]
    assert task.metrics("test", windows)["word_ppl"] == math.inf


def fake(task: PerplexityTask) -> list[np.ndarray]:
    counts = [float(item["loss_mask"].sum()) for item in task.dataset("test")]
    return [np.array([0.0, n, 0, 0]) for n in counts]
