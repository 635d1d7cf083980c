"""Prompts: where blanks are, what is refused, and what comes back."""

from __future__ import annotations

import pytest

from glmkd_nemo.generation import GenerationConfig, Generator
from glmkd_nemo.generation.prompt import read_prompt
from tests.generation import words
from tests.generation.words import Words

VOCAB, LONGEST = 20, 20
TOKENIZER = Words(VOCAB)


@pytest.mark.parametrize(
    ("prompt", "ids", "blanks"),
    [
        ("w7 [MASK] w8", [1, 7, 2, 8, 0], [2]),
        ("w7 [gMASK]", [1, 7, 5], [2]),  # the text goes on: no end token
        ("w7", [1, 7, 5], [2]),
        ("[MASK] w7 [MASK]", [1, 2, 7, 2, 0], [1, 3]),
        ([7, 2, 2], [7, 2, 2], [1, 2]),
    ],
)
def test_contexts_are_those_of_the_original(
    prompt: str | list[int], ids: list[int], blanks: list[int]
):
    read = read_prompt(prompt, TOKENIZER, LONGEST, "p")
    assert (read.ids, read.blanks) == (ids, blanks)


def test_a_tokenizer_without_gmask_gets_a_mask():
    class Plain(Words):
        gmask_id = None

    assert read_prompt("w7", Plain(VOCAB), LONGEST, "p").ids == [1, 7, 2, 0]


def test_positions_of_the_second_blank():
    """Tokens have their mask's place, and count inside the blank."""
    prompt = read_prompt("w7 [MASK] w8 [MASK]", TOKENIZER, LONGEST, "p")
    prompt.spans.append([9, 10])
    assert prompt.prefix() == (
        [1, 7, 2, 8, 2, 0, 3, 9, 10],
        [0, 1, 2, 3, 4, 5, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 1, 2, 3],
    )
    assert prompt.place == 4
    prompt.spans.append([])
    assert prompt.filled() == [1, 7, 9, 10, 8, 0]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "prompt 3 is empty"),
        ([7, 8], "prompt 3: none of its 2 ids is a mask"),
        ("w7 " * 30, "prompt 3 has 32 tokens, but the model has positions for 20"),
    ],
)
def test_prompts_that_cannot_be_used(prompt: str | list[int], message: str):
    with pytest.raises(ValueError, match=message):
        read_prompt(prompt, TOKENIZER, LONGEST, "prompt 3")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"min_new_tokens": 64}, "min_new_tokens=64"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"early_stopping": "soon"}, "early_stopping='soon'"),
        ({"do_sample": True, "num_beams": 2}, "do_sample with num_beams"),
    ],
)
def test_settings_that_cannot_work(settings: dict, name: str):
    with pytest.raises(ValueError, match=name):
        GenerationConfig(**settings)


@pytest.mark.usefixtures("alone")
def test_what_comes_back():
    """Text and tokens of the blanks, and the prompt with its blanks filled."""
    generator = Generator(words.model(VOCAB), TOKENIZER, batch_size=2)
    done: list[int] = []
    rows = generator.generate(words.PROMPTS, GenerationConfig(max_new_tokens=4), done.append)
    assert done == [2, 3]
    second = rows[1]
    assert len(second.spans) == 2
    assert second.ids == second.spans[0] + second.spans[1]
    assert second.text.split() == [TOKENIZER.words[i] for i in second.ids]
    first, last = (TOKENIZER.decode(span) for span in second.spans)
    assert second.filled.split() == f"w6 w7 w10 w7 {first} w8 w8 {last}".split()
    assert generator.generate([], GenerationConfig(max_new_tokens=4)) == []


@pytest.mark.usefixtures("alone")
def test_more_tokens_than_positions():
    generator = Generator(words.model(VOCAB), TOKENIZER)
    with pytest.raises(ValueError, match="max_new_tokens=21"):
        generator.generate(["w7"], GenerationConfig(max_new_tokens=21))
