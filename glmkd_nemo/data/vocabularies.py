"""Text vocabularies on HF `tokenizers`, `transformers` and `sentencepiece`: text <-> ids only.

Each class knows nothing of GLM; `tokenizer.GLMTokenizer` adds the command tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol


class Vocabulary(Protocol):
    """What `GLMTokenizer` needs of a vocabulary."""

    size: int

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ids below `size`."""
        ...

    def token(self, token_id: int) -> str:
        """Text of one token, blanks and line ends as such."""
        ...

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a word."""
        ...

    def tokens(self) -> list[str]:
        """All tokens as written in the vocabulary, by id."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the vocabulary's files, under the names that a folder is searched for."""
        ...


def find_file(path: str | None, names: tuple[str, ...], kind: str) -> Path:
    """The vocabulary file at `path`, or inside it where `path` is a folder.

    Raises:
        ValueError: no path given.
        FileNotFoundError: nothing at `path`, or a folder without any of `names`.
    """
    if not path:
        raise ValueError(f"tokenizer.path is not set: give the {kind} ({' or '.join(names)})")
    given = Path(path).expanduser()
    if given.is_file():
        return given
    if given.is_dir():
        for name in names:
            if (given / name).is_file():
                return given / name
        found = sorted(p.name for p in given.iterdir())[:8]
        raise FileNotFoundError(
            f"tokenizer.path={given}: no {' or '.join(names)} in this folder (it holds {found}); "
            f"give the {kind}"
        )
    raise FileNotFoundError(
        f"tokenizer.path={given} does not exist; give the {kind}, or type=huggingface with a model "
        "name, or train one with glmkd_nemo.data.tokenizer.train_wordpiece"
    )


class WordPiece:
    """BERT WordPiece from a `vocab.txt`, one token a line."""

    REQUIRED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

    def __init__(self, path: str | None, lower_case: bool = True) -> None:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        file = find_file(path, ("vocab.txt",), "WordPiece vocab.txt")
        self._tokens = _read_vocab_txt(file, self.REQUIRED)
        self.vocab = {token: i for i, token in enumerate(self._tokens)}
        self.size = len(self._tokens)
        self.lower_case = lower_case
        model = models.WordPiece(self.vocab, unk_token="[UNK]", max_input_chars_per_word=100)
        self._engine = Tokenizer(model)
        self._engine.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
        self._engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._engine.decoder = decoders.WordPiece(cleanup=False)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Words joined by single blanks; a piece (##) joins the word before it."""
        words: list[str] = []
        for token in (self._tokens[i] for i in ids):
            if token.startswith("##") and words:
                words[-1] += token[2:]
            else:
                words.append(token)
        return " ".join(words)

    def token(self, token_id: int) -> str:
        """Text of one token."""
        return self._tokens[token_id]

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a word."""
        return not self._tokens[token_id].startswith("##")

    def tokens(self) -> list[str]:
        """All tokens by id."""
        return self._tokens

    def save(self, folder: Path) -> None:
        """Writes the vocabulary's files."""
        (folder / "vocab.txt").write_text("\n".join(self._tokens) + "\n", encoding="utf-8")


def _read_vocab_txt(file: Path, required: Iterable[str]) -> list[str]:
    try:
        tokens = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a WordPiece vocab.txt: not UTF-8 ({error})") from error
    tokens = [token.rstrip("\r") for token in tokens]
    missing = [token for token in required if token not in tokens]
    if missing:
        raise ValueError(
            f"{file} is not a BERT WordPiece vocabulary: {', '.join(missing)} missing "
            f"({len(tokens)} lines read); give a vocab.txt with one token a line"
        )
    if len(set(tokens)) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in tokens[:i])
        raise ValueError(f"{file}: token {twice!r} occurs twice; ids would be ambiguous")
    return tokens


class ByteLevelBPE:
    """GPT-2 (or RoBERTa) BPE from a vocabulary (JSON) and a merges file (text) beside it."""

    NAMES = ("vocab.json", "gpt2-vocab.json", "roberta-vocab.json")

    def __init__(self, path: str | None) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        self._vocab_file = find_file(path, self.NAMES, "GPT-2 vocab.json")
        name = self._vocab_file.name.replace("vocab.json", "merges.txt")
        self._merges_file = self._vocab_file.with_name(name)
        if self._merges_file == self._vocab_file or not self._merges_file.is_file():
            raise FileNotFoundError(
                f"GPT-2 merges file missing: {self._merges_file} must lie beside {self._vocab_file}"
            )
        self.vocab = _read_json_vocab(self._vocab_file)
        merges = _read_merges(self._merges_file, self.vocab)
        model = models.BPE(vocab=self.vocab, merges=merges)
        self.is_roberta = {"<s>", "</s>", "<mask>", "<unk>"} <= self.vocab.keys()
        if "<|endoftext|>" not in self.vocab and not self.is_roberta:
            raise ValueError(f"{self._vocab_file} is not GPT-2's: <|endoftext|> missing")
        self._tokens = sorted(self.vocab, key=self.vocab.__getitem__)
        self.size = len(self._tokens)
        self._engine = Tokenizer(model)
        self._engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._engine.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return self._engine.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids below `size`."""
        return self._engine.decode(ids, skip_special_tokens=False)

    def token(self, token_id: int) -> str:
        """The token with its byte alphabet undone for blanks and line ends."""
        return self._tokens[token_id].replace("Ġ", " ").replace("Ċ", "\n")

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a word."""
        return self._tokens[token_id][:1] in ("Ġ", "Ċ")

    def tokens(self) -> list[str]:
        """All tokens by id."""
        return self._tokens

    def save(self, folder: Path) -> None:
        """Writes the vocabulary's files."""
        shutil.copyfile(self._vocab_file, folder / "vocab.json")
        shutil.copyfile(self._merges_file, folder / "merges.txt")


def _read_json_vocab(file: Path) -> dict[str, int]:
    try:
        vocab = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not a GPT-2 vocab.json: {error}") from error
    if not isinstance(vocab, dict) or sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"{file} is not a GPT-2 vocab.json: no map of tokens to ids 0, 1, 2, ...")
    return vocab


def _read_merges(file: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#version") or not line.strip():
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= vocab.keys():
            raise ValueError(f"{file}:{number}: merge {line!r} does not belong to the vocabulary")
        merges.append((parts[0], parts[1]))
    return merges


class SentencePiece:
    """A SentencePiece model, e.g. the one of the Chinese GLM checkpoints (cog-pretrain.model)."""

    NAMES = ("tokenizer.model", "cog-pretrain.model", "spiece.model")

    def __init__(self, path: str | None) -> None:
        from sentencepiece import SentencePieceProcessor

        self._file = find_file(path, self.NAMES, "SentencePiece model")
        try:
            self._engine: Any = SentencePieceProcessor(model_file=str(self._file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self._file} is not a SentencePiece model: {error}") from error
        self.size = int(self._engine.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return list(self._engine.encode(text))

    def decode(self, ids: list[int]) -> str:
        """Text of ids below `size`."""
        return str(self._engine.decode(ids))

    def token(self, token_id: int) -> str:
        """Text of one token."""
        return str(self._engine.id_to_piece(token_id))

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a word."""
        return self.token(token_id).startswith("▁")

    def tokens(self) -> list[str]:
        """All tokens by id."""
        return [self.token(i) for i in range(self.size)]

    def save(self, folder: Path) -> None:
        """Writes the vocabulary's files."""
        shutil.copyfile(self._file, folder / "tokenizer.model")
