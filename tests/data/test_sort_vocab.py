"""Sorted vocabularies: counting, order, file format, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmkd_nemo.data.sort_vocab import (
    ANSWERS,
    COLUMNS,
    count_tokens,
    ids_of,
    read_order,
    sort_vocab,
    sorted_ids,
    table,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer, build_tokenizer
from glmkd_nemo.models.vocab_map import build_tables, by_token, kept_size
from tests.data.conftest import SHARED, write_jsonl
from tests.launch import run_script

RECORDED = SHARED / "golden" / "data" / "vocab_sort.json"
BERT = SHARED / "data" / "bert-base-uncased-vocab.txt"
TOTAL = 4543206935  # tokens of the recorded corpus: what the recorded shares leave


def rows_of(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.rstrip("\n").split("\n")]


@pytest.fixture(scope="module")
def recorded_numbers() -> dict[str, Any]:
    """The first and last rows of the table that GLMKD made of BERT's corpus."""
    if not RECORDED.is_file() or not BERT.is_file():
        pytest.skip("the recorded numbers and the vocabulary they belong to are not here")
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def counts_like(recorded: dict[str, Any], tokenizer: GLMTokenizer) -> np.ndarray:
    """Counts of a corpus that has the recorded rows; what is not recorded is made up."""
    first, _ = ids_of(ANSWERS, tokenizer)
    first |= {token.id for token in tokenizer.commands.values()}
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    for _, token, _, number, _ in recorded["first_20_rows"]:
        counts[int(token)] = int(number)
    silent = {token.id for token in tokenizer.commands.values()} - {tokenizer.unk_id}
    rest = sorted(first - silent - set(np.flatnonzero(counts)))
    counts[rest] = np.arange(362957, 362957 - len(rest), -1)  # below the 20th
    others = [i for i in range(tokenizer.vocab_size) if i not in first]
    # the table tells how many other tokens never occur, and the places of a few
    zeros = tokenizer.vocab_size - int(recorded["first_20_rows"][1][0])
    never = [i for i in others if i >= 30518 and i <= 30520]
    never = [i for i in others if i < 30000][: zeros - len(never)] + never
    often = [i for i in others if i not in set(never)]
    place = int(recorded["last_3_rows"][0][0]) - len(first)
    often.remove(30521)
    often.insert(place, 30521)
    counts[often] = np.arange(len(often), 0, -1)
    counts[often[0]] += TOTAL - int(counts.sum())
    return counts


def test_the_recorded_table(recorded_numbers: dict[str, Any]):
    """Columns, places, texts, counts and shares as in the original's file."""
    tokenizer = build_tokenizer({"type": "bert", "path": str(BERT)})
    counts = counts_like(recorded_numbers, tokenizer)
    first, unknown = ids_of(ANSWERS, tokenizer)
    first |= {token.id for token in tokenizer.commands.values()}
    assert unknown == ()
    order = sorted_ids(counts, first)
    head, *rows = rows_of(table(order, counts, tokenizer))
    assert head == recorded_numbers["header"] == list(COLUMNS)
    assert len(rows) == recorded_numbers["num_rows"]
    assert rows[:20] == recorded_numbers["first_20_rows"]
    assert rows[-3:] == recorded_numbers["last_3_rows"]


def test_the_recorded_map(recorded_numbers: dict[str, Any]):
    """Half of the vocabulary, the unknown token for the other half."""
    tokenizer = build_tokenizer({"type": "bert", "path": str(BERT)})
    counts = counts_like(recorded_numbers, tokenizer)
    first = ids_of(ANSWERS, tokenizer)[0] | {t.id for t in tokenizer.commands.values()}
    padded = recorded_numbers["vocab_size_padded"]
    size = kept_size(0.5, tokenizer.vocab_size, 128)
    assert size == recorded_numbers["map_vocab_size_0.5"]
    order = sorted_ids(counts, first)
    found = build_tables(order, size, padded, by_token(tokenizer.unk_id)).row_of_id
    recorded = recorded_numbers["build_map_vocab_for_student(no teacher)"][
        "origin_id_to_target_pos"
    ]
    assert found[:40].tolist() == recorded["first40"]
    assert found[-20:].tolist() == recorded["last20"]
    assert int(found.sum()) == recorded["sum"]


def test_counts_are_those_of_the_texts(texts: list[str], tokenizer: GLMTokenizer, prefix: Path):
    expected = Counter(token for text in texts for token in tokenizer.encode(text))
    counts = count_tokens(prefix, tokenizer)
    assert {i: int(n) for i, n in enumerate(counts) if n} == dict(expected)


def test_raw_text_is_counted_too(tmp_path: Path, texts: list[str], tokenizer: GLMTokenizer):
    source = write_jsonl(tmp_path / "texts.jsonl", texts[:5])
    expected = Counter(token for text in texts[:5] for token in tokenizer.encode(text))
    assert int(count_tokens(source, tokenizer).sum()) == expected.total()


def test_order_and_round_trip(tmp_path: Path, tokenizer: GLMTokenizer, prefix: Path):
    made = sort_vocab(
        [prefix, prefix], tmp_path / "v.tsv", tokenizer, keep=("the",), progress=False
    )
    counts = 2 * count_tokens(prefix, tokenizer)
    order = read_order(made.path, tokenizer)
    commands = {token.id for token in tokenizer.commands.values()}
    kept = commands | {tokenizer.encode("the")[0]}
    assert made.kept == len(kept)
    assert set(order[: len(kept)]) == kept
    for group in (order[: len(kept)], order[len(kept) :]):
        keys = [(-int(counts[i]), i) for i in group]
        assert keys == sorted(keys)
    assert made.tokens == int(counts.sum())
    assert made.used == int((counts > 0).sum())


def test_words_to_keep(tokenizer: GLMTokenizer):
    found, unknown = ids_of(["the", "notaword"], tokenizer)
    assert found == {tokenizer.encode("the")[0]}
    assert unknown == ("notaword",)


def test_ties_are_broken_by_id():
    assert sorted_ids(np.array([0, 5, 5, 9, 0]), {4}) == [4, 3, 1, 2, 0]


def damaged(path: Path, change: Any) -> Path:
    """A copy of a table with one change."""
    copy = path.with_name("damaged.tsv")
    rows = rows_of(path.read_text(encoding="utf-8"))
    change(rows)
    copy.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    return copy


def test_what_is_refused(tmp_path: Path, tokenizer: GLMTokenizer, prefix: Path, vocab_dir: Path):
    path = sort_vocab([prefix], tmp_path / "v.tsv", tokenizer, progress=False).path
    with pytest.raises(ValueError, match="exists: choose another file or pass --overwrite"):
        sort_vocab([prefix], path, tokenizer, progress=False)
    sort_vocab([prefix], path, tokenizer, progress=False, overwrite=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sort_vocab([tmp_path / "nowhere"], tmp_path / "w.tsv", tokenizer, progress=False)
    with pytest.raises(ValueError, match="cannot read the sorted vocabulary"):
        read_order(tmp_path / "gone.tsv", tokenizer)

    def rename(rows: list[list[str]]) -> None:
        rows[5][2] = "other"

    def head(rows: list[list[str]]) -> None:
        rows[0][0] = "number"

    def twice(rows: list[list[str]]) -> None:
        rows[3][1] = rows[4][1]

    def letters(rows: list[list[str]]) -> None:
        rows[3][0] = "x"

    for change, words in (
        (rename, "made with another vocabulary: token .* is 'other'"),
        (head, "its columns are not origin_no"),
        (twice, "do not belong together"),
        (letters, "ids are not numbers"),
        (list.pop, "do not belong together"),
    ):
        with pytest.raises(ValueError, match=words):
            read_order(damaged(path, change), tokenizer)
    fewer = build_tokenizer({"type": "bert", "path": str(vocab_dir)})
    with pytest.raises(ValueError, match="but the tokenizer has"):
        read_order(path, fewer)


def test_the_script(tmp_path: Path, texts: list[str], vocab_dir: Path):
    source = write_jsonl(tmp_path / "texts.jsonl", texts[:5])
    given = ["--corpus", source, "--output", tmp_path / "v.tsv", "--tokenizer-path", vocab_dir]
    done = run_script("sort_vocab", *given)
    assert done.returncode == 0, done.stderr
    assert "come first" in done.stdout
    assert "count" in done.stderr  # the progress bar
    order = read_order(
        tmp_path / "v.tsv", build_tokenizer({"type": "bert", "path": str(vocab_dir)})
    )
    assert order[0] != 0
    again = run_script("sort_vocab", *given)
    assert again.returncode == 2  # a job script does not requeue it
    assert "--overwrite" in again.stderr
