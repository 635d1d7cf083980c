"""Batches of a run, one of them known ahead where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from glmkd_nemo.engine.data_feed import Feed


class Loader:
    """Yields four batches and tells how many were fetched."""

    fetched = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(4):
            self.fetched += 1
            yield {"number": number}


@pytest.mark.parametrize("look_ahead", [False, True])
def test_a_feed_knows_one_batch_ahead(look_ahead: bool):
    loader = Loader()
    feed = Feed(loader, total=7, first=3)
    feed.look_ahead = look_ahead
    seen = []
    for batch in feed:
        following = feed.following and feed.following["number"]
        seen.append((batch["number"], feed.number, following, loader.fetched))
    if look_ahead:
        assert seen == [(0, 3, 1, 2), (1, 4, 2, 3), (2, 5, 3, 4), (3, 6, None, 4)]
    else:
        assert seen == [(n, n + 3, None, n + 1) for n in range(4)]
    assert len(feed) == 7
