"""Sequence-to-sequence tasks: prompts, references and metrics of generated texts."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.tokenizer import GLMTokenizer
from glmkd_nemo.generation import Generation
from glmkd_nemo.tasks.registry import build_task
from glmkd_nemo.tasks.seq2seq import GenerationTask
from tests.data.words import tokenizer


@pytest.fixture
def words(tmp_path: Path) -> GLMTokenizer:
    return tokenizer(tmp_path)


def task(folder: Path, words: GLMTokenizer, name: str, **keys: Any) -> GenerationTask:
    sizes = {"max_src_length": 12, "max_tgt_length": 6}
    made = build_task({"name": name, "data_dir": str(folder), **sizes, **keys}, words)
    assert isinstance(made, GenerationTask)
    return made


@pytest.fixture
def summaries(tmp_path: Path, words: GLMTokenizer) -> GenerationTask:
    (tmp_path / "test.source").write_text("the cat\non the mat\n")
    (tmp_path / "test.target").write_text("The cat sat , on\na <S_SEP> b\n")
    return task(tmp_path, words, "cnn_dm", num_beams=3, min_tgt_length=2, length_penalty=0.7)


def test_prompts_references_and_options(summaries: GenerationTask) -> None:
    prompts = summaries.generation_prompts("test")
    items = summaries.dataset("test")
    assert prompts == [item["input_ids"].tolist()[:12] for item in items]
    assert summaries.references("test") == ["the cat sat , on", "a [SEP] b"]
    options = summaries.generation
    assert (options.max_new_tokens, options.min_new_tokens) == (6, 2)
    assert (options.num_beams, options.length_penalty) == (3, 0.7)
    with pytest.raises(ValueError, match="min_new_tokens=6 leaves no room"):
        task(Path("."), summaries.tokenizer, "cnn_dm", min_tgt_length=6)


def test_metrics_of_summaries(summaries: GenerationTask, tmp_path: Path) -> None:
    predictions = ["the cat sat , on", "a [SEP] b"]
    found = summaries.generation_metrics("test", predictions)
    # the second has no sentence of five words, which is what counts
    assert found == pytest.approx({"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5})
    assert summaries.generation_metrics("test", predictions[:1])["rouge1"] == pytest.approx(1)
    file = summaries.write_generations("test", predictions, tmp_path)
    assert json.loads(file.read_text().splitlines()[1]) == {
        "source": "on the mat",
        "prediction": "a [SEP] b",
        "reference": "a [SEP] b",
    }


def test_metrics_of_probabilities(summaries: GenerationTask) -> None:
    scores = [np.array([2.0, 3, 1, 0]), np.array([4.0, 1, 1, 1])]
    assert summaries.metrics("test", scores) == pytest.approx(
        {"ppl": math.exp(1.5), "nats_per_token": 1.5, "accuracy": 0.5}
    )
    assert summaries.lower_is_better


def test_models_with_few_positions_are_refused(summaries: GenerationTask) -> None:
    summaries.check_positions(12)
    with pytest.raises(ValueError, match=r"up to 12 positions, .* max_position_embeddings=11: low"):
        summaries.check_positions(11)


def test_questions_have_bleu(tmp_path: Path, words: GLMTokenizer) -> None:
    qa = {"question": "who sat on the mat ?", "answers": [{"text": "cat"}]}
    articles = [{"paragraphs": [{"context": "the cat sat", "qas": [qa]}]}]
    (tmp_path / "test.json").write_text(json.dumps(articles))
    made = task(tmp_path, words, "squad_qg")
    assert made.references("test") == ["who sat on the mat ?"]
    assert made.generation_metrics("test", made.references("test")) == pytest.approx(
        {"bleu": 1.0, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    )


def test_blanks_are_compared_as_whole_sentences(tmp_path: Path, words: GLMTokenizer) -> None:
    (tmp_path / "valid.txt").write_text("the cat sat on the mat\n")
    made = task(tmp_path, words, "blank_filling", mask_ratio=0.3)
    (prompt,) = made.generation_prompts("valid")
    assert words.mask_id in prompt
    whole = Generation("sat", [], 0.0, [], "the cat sat on the mat")
    assert made.prediction(whole) == "the cat sat on the mat"
    found = made.generation_metrics("valid", [made.prediction(whole)])
    assert found == pytest.approx({"bleu": 1.0, "exact": 1.0})
    assert made.generation_metrics("valid", ["the cat sat on a mat"])["exact"] == 0


def test_unknown_options_and_tasks_are_named(tmp_path: Path, words: GLMTokenizer) -> None:
    with pytest.raises(ValueError, match=r"task cnn_dm: .*num_beam"):
        task(tmp_path, words, "cnn_dm", num_beam=3)
    with pytest.raises(ValueError, match="unknown task 'cnndm'; did you mean cnn_dm"):
        task(tmp_path, words, "cnndm")
