"""Searches: against plain ones, with and without cache, alone and in batches, on any layout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from glmkd_nemo.generation import GenerationConfig, Generator
from glmkd_nemo.models.glm import GLMModel
from glmkd_nemo.models.truncate import whole_weights
from tests.distill.single import one_rank
from tests.generation import ranks, words
from tests.generation.words import PROMPTS, Words
from tests.launch import run_ranks

pytestmark = pytest.mark.timeout(500)
SMALL = 9  # words, of which all fillings can be tried
CONTEXT = [1, 7, 2, 8, 6, 0]


@pytest.fixture(scope="module")
def references() -> dict[str, dict[str, Any]]:
    """By form: whole weights, and what one process generates with them."""
    found = {}
    with one_rank():
        for form in ranks.FORMS:
            glm = ranks.build(form)
            state = {name: w.clone() for name, w in whole_weights(glm)}
            found[form] = {"state": state, "results": words.results(glm)}
            found[form]["uncached"] = words.results(glm, use_cache=False)
            found[form]["alone"] = words.results(glm, batch_size=1)
    return found


@pytest.fixture(scope="module")
def found(references: dict[str, Any]) -> dict[tuple[str, str], list[Any]]:
    """What two processes generate with the same weights."""
    states = {form: references[form]["state"] for form in ranks.ON_RANKS}
    return run_ranks("tests.generation.ranks:everything", 2, {"states": states}, timeout=300)


def alike(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether the same was generated, with scores that differ by rounding only."""
    pairs = [
        (row, other)
        for name in expected
        for row, other in zip(found[name], expected[name], strict=True)
    ]
    return all(spans == others and abs(a - b) < 2e-4 for (spans, a), (others, b) in pairs)


@pytest.mark.parametrize("form", ranks.FORMS)
def test_a_cache_and_a_batch_change_nothing(references: dict[str, Any], form: str):
    """Prompts of a batch differ in length and in the number of blanks."""
    for other in ("uncached", "alone"):
        assert alike(references[form][other], references[form]["results"])
    texts = {str([spans for spans, _ in rows]) for rows in references[form]["results"].values()}
    assert len(texts) >= 5, "the searches hardly differ"


@pytest.mark.parametrize("name", ranks.LAYOUTS)
@pytest.mark.parametrize("form", ranks.ON_RANKS)
def test_every_layout_generates_the_same(
    references: dict[str, Any], found: dict[tuple[str, str], list[Any]], form: str, name: str
):
    """On both ranks, with and without cache."""
    for results in found[name, form]:
        for search in ranks.SEARCHES:
            expected = references[form]["results"][search]
            assert [spans for spans, _ in results[search]] == [spans for spans, _ in expected]
            scores = [score for _, score in results[search]]
            assert scores == pytest.approx([score for _, score in expected], abs=2e-4)


def small_model(seed: int) -> GLMModel:
    return words.model(SMALL, seed, num_layers=1, init_method_std=0.3)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("cached", [True, False])
def test_greedy_search_takes_the_most_likely_token_every_time(cached: bool):
    lengths = set()
    for seed in range(4):
        glm = words.model(20, seed, init_method_std=0.8)
        generator = Generator(glm, Words(20))
        rows = generator.generate(PROMPTS, GenerationConfig(max_new_tokens=6, use_cache=cached))
        contexts = [[1, 7, 8, 2, 9, 0], [1, 6, 7, 10, 7, 2, 8, 8, 2, 0], [1, 11, 5]]
        for row, ids in zip(rows, contexts, strict=True):
            spans, score = words.greedy(glm, ids, 6)
            assert row.spans == spans
            assert row.score == pytest.approx(score, abs=1e-4)
            lengths |= {len(span) for span in spans}
    assert len(lengths) > 2, "fillings that end at the limit only test little"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_of_all_fillings(length_penalty: float, cached: bool):
    """As many beams as there are beginnings: nothing is lost on the way."""
    config = GenerationConfig(
        max_new_tokens=3,
        num_beams=SMALL**2,
        early_stopping="never",
        length_penalty=length_penalty,
        use_cache=cached,
    )
    better_than_greedy = 0
    for seed in (0, 3, 5):
        glm = small_model(seed)
        (row,) = Generator(glm, Words(SMALL)).generate([CONTEXT], config)
        score, ids = words.best(glm, CONTEXT, 3, length_penalty)[0]
        assert row.score == pytest.approx(score, abs=1e-5)
        assert row.ids == ids
        better_than_greedy += words.greedy(glm, CONTEXT, 3)[0] != [ids]
    assert better_than_greedy


def generated(glm: GLMModel, **settings: Any) -> list[int]:
    config = GenerationConfig(**{"max_new_tokens": 12, **settings})
    return Generator(glm, Words(glm.config.vocab_size)).generate([CONTEXT], config)[0].ids


@pytest.mark.usefixtures("alone")
def test_options_do_what_they_say():
    glm = words.model(20, seed=1)
    free = generated(glm)
    pairs = list(itertools.pairwise(free))
    assert len(set(pairs)) < len(pairs), "the free text must repeat itself"
    for beams in (1, 3):
        ids = generated(glm, no_repeat_ngram_size=2, num_beams=beams)
        pairs = list(itertools.pairwise(ids))
        assert len(set(pairs)) == len(pairs) > 0
    assert free[0] not in generated(glm, suppress_tokens=[free[0]])
    assert generated(glm, begin_suppress_tokens=[free[0]])[0] != free[0]
    lengths = [len(generated(small_model(3), num_beams=4, length_penalty=p)) for p in (0, 2)]
    assert lengths[0] < lengths[1]
    short = next(g for g in map(small_model, range(9)) if len(generated(g)) < 3)
    assert len(generated(short, min_new_tokens=5)) >= 5


@pytest.mark.usefixtures("alone")
def test_draws_depend_on_seed_and_index():
    glm = words.model(20, seed=1)
    generator = Generator(glm, Words(20), batch_size=4)

    def drawn(count: int, first: int = 0, **settings: Any) -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=6, do_sample=True, **settings)
        return [row.ids for row in generator.generate(["w7 [MASK]"] * count, config, first=first)]

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(5, seed=1)
    assert len({tuple(ids) for ids in drawn(5)}) > 1
    assert drawn(2, first=3) == drawn(5)[3:]
    (likely,) = {tuple(ids) for ids in drawn(3, top_k=1)}
    assert {tuple(ids) for ids in drawn(3, top_p=1e-6)} == {likely}
    assert {tuple(ids) for ids in drawn(3, temperature=1e-4)} == {likely}


@pytest.mark.usefixtures("alone")
def test_tokens_are_drawn_as_often_as_they_are_likely():
    glm = words.model(20, seed=5, init_method_std=0.2)
    config = GenerationConfig(max_new_tokens=1, do_sample=True, top_k=4)
    count = 600
    rows = Generator(glm, Words(20), 300).generate([[1, 7, 2, 0]] * count, config)
    likely, tokens = words.log_probs(glm, [1, 7, 2, 0], [], []).exp().topk(4)
    ends = [t for t in tokens.tolist() if t in (0, 4)]
    for share, token in zip((likely / likely.sum()).tolist(), tokens.tolist(), strict=True):
        if token in ends:
            continue
        seen = sum(row.ids == [token] for row in rows) / count
        assert abs(seen - share) < 4 * (share * (1 - share) / count) ** 0.5
    assert {i for row in rows for i in row.ids} <= set(tokens.tolist())


@pytest.mark.usefixtures("alone")
def test_only_kept_tokens_are_generated():
    """A token that is left out shares its stand-in's logit: it must not take its place."""
    glm = ranks.build("mapped")
    assert glm.vocab_map is not None
    kept = set(glm.vocab_map.kept_ids.tolist())
    assert len(kept) < ranks.VOCAB
    for rows in words.results(glm).values():
        assert {token for spans, _ in rows for span in spans for token in span} <= kept


@pytest.mark.usefixtures("alone")
def test_the_model_is_left_as_it_was():
    glm = words.model(20).train()
    before = torch.get_rng_state()
    generated(glm, do_sample=True)
    assert glm.training
    assert torch.equal(torch.get_rng_state(), before)
    glm.eval()
    generated(glm)
    assert not glm.training
