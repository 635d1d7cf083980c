"""Metrics of generated texts: values one can work out by hand."""

import pytest

from glmkd_nemo.metrics.generation import bleu, exact, rouge


def test_rouge_values() -> None:
    # 5 of 6 words; 3 of 5 pairs; the longest common subsequence has 5 words
    found = rouge(["the cat was on the mat"], ["the cat sat on the mat"])
    assert found == pytest.approx({"rouge1": 5 / 6, "rouge2": 3 / 5, "rougeL": 5 / 6})
    # precision 2/2, recall 2/4
    found = rouge(["the cat"], ["the cat sat there"])
    assert found["rouge1"] == pytest.approx(2 * 0.5 / 1.5)


def test_rouge_ignores_case_marks_and_endings() -> None:
    found = rouge(["Cats , jumping ."], ["cat jumped"])
    assert found["rouge1"] == pytest.approx(1.0)


def test_rouge_l_takes_the_best_of_each_sentence() -> None:
    swapped = rouge(["b b b [SEP] a a a"], ["a a a [SEP] b b b"])["rougeL"]
    assert swapped == pytest.approx(1.0)
    assert rouge(["b b b a a a"], ["a a a b b b"])["rougeL"] == pytest.approx(0.5)


def test_short_and_repeated_sentences_do_not_count() -> None:
    reference = ["a b c d e"]
    assert rouge(["a b c d"], reference, min_words=5)["rouge1"] == 0
    assert rouge(["a b c d"], reference)["rouge1"] == pytest.approx(8 / 9)
    twice = ["a b c d e [SEP] a b c d x"]
    assert rouge(twice, reference, duplicate_rate=0.7)["rouge1"] == pytest.approx(1)
    assert rouge(twice, reference, duplicate_rate=0.8)["rouge1"] == pytest.approx(10 / 15)


def test_means_over_texts() -> None:
    assert rouge(["a", "b"], ["a", "c"])["rouge1"] == pytest.approx(0.5)


def test_bleu() -> None:
    text = "the cat sat on the mat"
    assert bleu([text], [text]) == pytest.approx(1)
    assert bleu(["a b c d e f g"], [text]) < 0.1
    # of 6, 5, 4, 3 n-grams 5, 4, 3, 2 match, equal lengths
    assert bleu(["the cat sat on the hat"], [text]) == pytest.approx(
        (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    )


def test_exact() -> None:
    assert exact(["a  b", "a"], ["a b", "b"]) == 0.5


def test_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 predictions of 2 texts"):
        rouge(["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"0 predictions of 0 texts"):
        bleu([], [])
