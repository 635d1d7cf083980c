"""Trains a WordPiece vocabulary on a corpus, with an equal result on every run."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from glmkd_nemo.data.vocabularies import WordPiece

_MOST_CHARACTERS = 1000
_LEAST_SHARE = 2e-6  # a rarer character is not worth two tokens (alone and inside a word)


def train_wordpiece(texts: Iterable[str], vocab_size: int, folder: str | Path) -> Path:
    """Trains an uncased WordPiece vocabulary and writes `vocab.txt`.

    The engine numbers the alphabet in the order of a hash table and breaks ties by these numbers,
    so two runs differ. Here the alphabet is given in a fixed order, most frequent first.

    Args:
        texts: documents.
        vocab_size: most tokens (text only; command tokens come on top).
        folder: created; usable as `path` of a `bert` tokenizer.

    Returns:
        The folder.

    Raises:
        ValueError: no text in `texts`, or `vocab_size` too small for the alphabet.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    documents = list(texts)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(normalizer.normalize_str(document))
    characters = {c for c in counts if not c.isspace()}
    if not characters:
        raise ValueError("train_wordpiece: the corpus holds no text")
    least = counts.total() * _LEAST_SHARE
    alphabet = sorted((c for c in characters if counts[c] >= least), key=lambda c: (-counts[c], c))
    alphabet = alphabet[: min(_MOST_CHARACTERS, max(vocab_size // 8, 1))]
    inside = [f"##{c}" for c in alphabet if not _splits_words(c)]
    fixed = [*WordPiece.REQUIRED, *alphabet, *inside]
    if len(fixed) > vocab_size:
        raise ValueError(
            f"train_wordpiece: vocab_size={vocab_size} is too small; {len(fixed)} tokens are "
            "needed for the alphabet alone"
        )
    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizer
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=fixed, show_progress=False
    )
    engine.train_from_iterator(_without(documents, characters - set(alphabet)), trainer)
    vocab = engine.get_vocab()
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    ordered = sorted(vocab, key=vocab.__getitem__)
    (target / "vocab.txt").write_text("\n".join(ordered) + "\n", encoding="utf-8")
    return target


def _splits_words(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes the character a word of its own."""
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character).startswith("P")


def _without(documents: list[str], rare: set[str]) -> Iterator[str]:
    """Documents with rare characters blanked out; they become [UNK] when text is encoded."""
    table = str.maketrans(dict.fromkeys(rare, " "))
    for document in documents:
        yield document.translate(table) if rare else document
