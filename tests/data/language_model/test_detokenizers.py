"""Text of published sets as one would write it."""

import pytest

from glmkd_nemo.data.language_model.detokenizers import DETOKENIZERS


@pytest.mark.parametrize(
    ("split", "plain"),
    [
        ("a twenty @-@ first , 3 @,@ 000 and 2 @.@ 5 m", "a twenty-first, 3,000 and 2.5 m"),
        ("one : two ; three . four ! five ? six", "one: two; three. four! five? six"),
        ("marks . , meet", "marks., meet"),
        ("( a ) [ b ] { c }", "(a) [b] {c}"),
        ('said " to be " and', 'said "to be" and'),
        ("the dogs ' home", "the dogs' home"),
        ("it 's the cat 's", "it's the cat's"),
        (" = = = Head = = = \n Text . \n", " === Head ===\nText.\n"),
        ("5 \u00b0 C", "5\u00b0C"),
        ("an <unk> word", "an <unk> word"),
    ],
)
def test_wikitext(split: str, plain: str) -> None:
    assert DETOKENIZERS["wikitext"](split) == plain


def test_penn_treebank() -> None:
    assert DETOKENIZERS["ptb"]("it 's n't $ N and \n # N more") == "it'sn't $1 and\n#1 more"


def test_lambada() -> None:
    split = "`` don't '' , he said . \u201c no \u201d \u2019"
    assert DETOKENIZERS["none"](split) == split
    assert DETOKENIZERS["quotes"](split) == '" don\'t " , he said . " no " \''
