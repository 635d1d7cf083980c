"""Text of published sets as one would write it."""

from glmkd_nemo.data.seq2seq import clean


def test_cnn_dm() -> None:
    text = "-LRB- CNN -RRB- `` I do n't , '' he 's said <S_SEP> it 'll -LSB- x -RSB- `y"
    assert clean.cnn_dm(text) == "( CNN ) \" I don't , \" he's said  it'll [ x ] 'y"
    assert clean.cnn_dm("a <S_SEP> b", is_target=True) == "a [SEP] b"


def test_gigaword() -> None:
    text = "UNK and <unk> -lrb- a &amp; b -rrb- &lt; -lcb-c-rcb-"
    assert clean.gigaword(text) == "[UNK] and [UNK] ( a & b ) < {c}"


def test_blanks_and_marks() -> None:
    assert clean.blanks("_UNK is <blank> .") == "[UNK] is [MASK] ."
    assert clean.plain_marks("\u201ca\u201d \u2018b\u2019 c\u2013d") == "\"a\" 'b' c-d"
