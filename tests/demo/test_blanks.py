"""Blank filling: the input GLM expects, and the choice of tokens."""

import pytest
import torch
from torch import Tensor

from glmkd_nemo.demo.blanks import batch_of, encode_blank, fill_blank


class Letters:
    """A tokenizer of single letters: ids 0-9 are commands, a = 10."""

    vocab_size = 36
    cls_id, eos_id, mask_id, sop_id, eop_id = 1, 2, 3, 4, 5

    def encode(self, text: str) -> list[int]:
        return [ord(c) - ord("a") + 10 for c in text.replace(" ", "")]

    def is_word_start(self, token_id: int) -> bool:
        return token_id != self.encode("z")[0]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 10 + ord("a")) for i in ids)


class Speller:
    """Wants the ids of `answer` one after the other, then eop; keeps what it was given."""

    def __init__(self, answer: list[int], padded_vocab: int = 40) -> None:
        self.answer = answer
        self.padded_vocab = padded_vocab
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, ids: Tensor, positions: Tensor, sep: Tensor) -> Tensor:
        self.calls.append((ids, positions, sep))
        logits = torch.zeros(1, ids.shape[1], self.padded_vocab)
        step = ids.shape[1] - int(sep) - 1
        wanted = self.answer[step] if step < len(self.answer) else Letters.eop_id
        logits[0, -1, wanted] = 5.0
        logits[0, -1, self.padded_vocab - 1] = 9.0  # a padded row must never win
        return logits


def test_the_input_has_glms_two_positions() -> None:
    prompt = encode_blank("ab [MASK] c", Letters())
    assert prompt.ids == [1, 10, 11, 3, 12, 2]
    assert prompt.mask_position == 3
    ids, positions, sep = batch_of(prompt, [13], Letters.sop_id)
    assert ids.tolist() == [[1, 10, 11, 3, 12, 2, 4, 13]]
    assert positions.tolist() == [[[0, 1, 2, 3, 4, 5, 3, 3], [0, 0, 0, 0, 0, 0, 1, 2]]]
    assert sep.tolist() == [6]


def test_the_span_is_chosen_token_by_token_until_eop() -> None:
    model = Speller([13, 14, 15])
    assert fill_blank(model, Letters(), "ab [MASK] c") == "def"
    assert len(model.calls) == 4
    assert model.calls[2][0].tolist()[0][-2:] == [13, 14]


def test_the_span_has_a_longest_length() -> None:
    assert fill_blank(Speller([13] * 20), Letters(), "[MASK]", max_tokens=3) == "ddd"


def test_an_answer_has_at_least_one_token_and_no_command() -> None:
    answer = fill_blank(
        Speller([Letters.mask_id]), Letters(), "a [MASK]", forbidden=frozenset(range(10))
    )
    assert answer
    assert all("a" <= c <= "z" for c in answer)


def test_an_answer_begins_a_word() -> None:
    z = Letters().encode("z")[0]
    assert not fill_blank(Speller([z, z]), Letters(), "a [MASK]").startswith("z")


@pytest.mark.parametrize("text", ["no blank", "[MASK] two [MASK]"])
def test_exactly_one_blank(text: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        encode_blank(text, Letters())
