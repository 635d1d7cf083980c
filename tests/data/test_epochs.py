"""A finite set of examples as an endless stream."""

from __future__ import annotations

import pytest

from glmkd_nemo.data.epochs import Epochs


def test_an_epoch_has_every_example_once_and_a_new_order() -> None:
    stream = Epochs(list("abcdefg"), 21, seed=3)
    epochs = [[stream[i] for i in range(k * 7, k * 7 + 7)] for k in range(3)]
    assert all(sorted(epoch) == list("abcdefg") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_and_nothing_else() -> None:
    first, again, other = (Epochs(range(50), 100, seed) for seed in (1, 1, 2))
    assert [first[i] for i in (99, 0, 50)] == [again[i] for i in (99, 0, 50)]
    assert [first[i] for i in range(50)] != [other[i] for i in range(50)]


def test_no_example_is_refused() -> None:
    with pytest.raises(ValueError, match="no example"):
        Epochs([], 10, 0)
