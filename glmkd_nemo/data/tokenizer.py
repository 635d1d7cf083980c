"""`GLMTokenizer`: a text vocabulary plus GLM's command tokens."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data import command_tokens
from glmkd_nemo.data.command_tokens import CommandToken
from glmkd_nemo.data.config import TOKENIZER_TYPES, TokenizerConfig, as_config
from glmkd_nemo.data.train_vocab import train_wordpiece
from glmkd_nemo.data.vocabularies import ByteLevelBPE, SentencePiece, Vocabulary, WordPiece

SAVED_CONFIG = "glm_tokenizer.json"
# A token that contains one of these ends a sentence (the reference's rule, Western and Chinese).
_SENTENCE_END = re.compile("[.?!;:\u3002\uff1f\uff01\uff1b\u2026\n]")


class GLMTokenizer:
    """Text <-> ids, with command tokens recognised inside text.

    Args:
        vocabulary: the text part.
        commands: command tokens with their ids.
        cfg: what it was built from; written by `save`.

    Attributes:
        vocab_size: ids are below this (not padded for tensor parallelism).
        pad_id, eos_id, unk_id, sep_id, cls_id, mask_id, sop_id, eop_id: ids of command tokens;
            cls_id is the reference's ENC; eos and pad are one token.
        gmask_id, smask_id, dblock_id: None unless asked for (`task_mask`, `block_mask`).
    """

    def __init__(
        self, vocabulary: Vocabulary, commands: Sequence[CommandToken], cfg: TokenizerConfig
    ) -> None:
        self.cfg = cfg
        self._vocabulary = vocabulary
        self._commands = {token.name: token for token in commands}
        self._text_of_id = {token.id: token.text for token in commands}
        self.vocab_size = max([vocabulary.size] + [token.id + 1 for token in commands])
        self.pad_id = self.command_token("pad")
        self.eos_id = self.command_token("eos")
        self.unk_id = self.command_token("unk")
        self.sep_id = self.command_token("sep")
        self.cls_id = self.command_token("ENC")
        self.mask_id = self.command_token("MASK")
        self.sop_id = self.command_token("sop")
        self.eop_id = self.command_token("eop")
        self.gmask_id = self._optional("gMASK")
        self.smask_id = self._optional("sMASK")
        self.dblock_id = self._optional("dBLOCK")
        self._split = _command_pattern(commands)
        self._id_of_text = {token.text: token.id for token in commands}

    def command_token(self, name: str) -> int:
        """Id of a command token by the reference's name (ENC, MASK, gMASK, sop, MASK7, ...).

        Raises:
            ValueError: the tokenizer was built without it.
        """
        if name not in self._commands:
            option = _OPTION_OF.get(name, "sentinels")
            raise ValueError(
                f"the tokenizer has no command token {name!r}; set tokenizer.{option} "
                f"(it has {', '.join(self._commands)})"
            )
        return self._commands[name].id

    def _optional(self, name: str) -> int | None:
        return self._commands[name].id if name in self._commands else None

    @property
    def commands(self) -> dict[str, CommandToken]:
        """Command tokens by name (a copy)."""
        return dict(self._commands)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` with nothing around them; command tokens in it become their ids."""
        if not text.strip():
            return []
        ids: list[int] = []
        last = 0
        for match in self._split.finditer(text):
            if match.start() > last:
                ids += self._vocabulary.encode(text[last : match.start()])
            ids.append(self._id_of_text[match.group().lstrip()])
            last = match.end()
        if last < len(text):
            ids += self._vocabulary.encode(text[last:])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; command tokens by their texts.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        pieces: list[str] = []
        run: list[int] = []
        for token_id in (int(i) for i in ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id} is outside the vocabulary of {self.vocab_size}")
            if token_id in self._text_of_id:
                pieces += [self._vocabulary.decode(run)] if run else []
                pieces.append(self._text_of_id[token_id])
                run = []
            elif token_id < self._vocabulary.size:
                run.append(token_id)
        pieces += [self._vocabulary.decode(run)] if run else []
        return (" " if isinstance(self._vocabulary, WordPiece) else "").join(pieces)

    def token(self, token_id: int) -> str:
        """Text of one id ("" for an id that no token uses)."""
        if token_id in self._text_of_id:
            return self._text_of_id[token_id]
        return self._vocabulary.token(token_id) if token_id < self._vocabulary.size else ""

    def is_word_start(self, token_id: int) -> bool:
        """Whether a token begins a word (command tokens do)."""
        if token_id in self._text_of_id or token_id >= self._vocabulary.size:
            return True
        return self._vocabulary.is_word_start(token_id)

    def is_sentence_end(self, token_id: int) -> bool:
        """Whether the token's text holds a mark that ends a sentence or clause."""
        return _SENTENCE_END.search(self.token(token_id)) is not None

    @functools.cached_property
    def sentence_ends(self) -> npt.NDArray[np.bool_]:
        """`is_sentence_end` of every id, [vocab_size]."""
        return np.array([self.is_sentence_end(i) for i in range(self.vocab_size)])

    def text_fingerprint(self) -> str:
        """Hash of the text vocabulary alone: equal where equal text gives equal ids."""
        lower = getattr(self._vocabulary, "lower_case", None)
        return _digest([type(self._vocabulary).__name__, lower, self._vocabulary.tokens()])

    def fingerprint(self) -> str:
        """Hash of the vocabulary with its command tokens; equal vocabularies -> equal."""
        commands = sorted((t.name, t.text, t.id) for t in self._commands.values())
        return _digest([self.text_fingerprint(), commands])

    def save(self, folder: str | Path) -> Path:
        """Writes the vocabulary and `glm_tokenizer.json`; `load_tokenizer` reads them back."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self._vocabulary.save(target)
        saved = dataclasses.asdict(self.cfg) | {"path": None}
        (target / SAVED_CONFIG).write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        return target


_OPTION_OF = {"gMASK": "task_mask", "sMASK": "task_mask", "dBLOCK": "block_mask"}


def _command_pattern(commands: Sequence[CommandToken]) -> re.Pattern[str]:
    """Matches any command text, the longest first, with the white space before `lstrip` ones."""
    texts = {token.text: token.lstrip for token in commands}
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile("|".join((r"\s*" if texts[t] else "") + re.escape(t) for t in ordered))


def _digest(value: Any) -> str:
    data = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()[:32]


def build_tokenizer(cfg: Any) -> GLMTokenizer:
    """Builds the tokenizer of a `TokenizerConfig` (or mapping with its keys).

    Raises:
        ValueError: unknown type or key, a file of another kind, or options that do not go together.
        FileNotFoundError: the vocabulary is missing.
    """
    cfg = as_config(TokenizerConfig, cfg)
    vocabulary: Vocabulary
    if cfg.type == "bert":
        words = WordPiece(cfg.path, cfg.lower_case)
        return GLMTokenizer(words, command_tokens.bert_commands(words.vocab, cfg), cfg)
    if cfg.type == "gpt2":
        bpe = ByteLevelBPE(cfg.path)
        of = command_tokens.roberta_commands if bpe.is_roberta else command_tokens.gpt2_commands
        return GLMTokenizer(bpe, of(bpe.vocab, cfg), cfg)
    if cfg.type == "sentencepiece":
        vocabulary = SentencePiece(cfg.path)
        commands = command_tokens.sentencepiece_commands(vocabulary.size, cfg)
        return GLMTokenizer(vocabulary, commands, cfg)
    if cfg.type == "huggingface":
        from glmkd_nemo.data.huggingface_vocab import HuggingFace

        theirs = HuggingFace(cfg.path)
        commands = command_tokens.huggingface_commands(theirs.size, theirs.own, cfg)
        return GLMTokenizer(theirs, commands, cfg)
    raise ValueError(f"tokenizer.type={cfg.type!r} is not one of {', '.join(TOKENIZER_TYPES)}")


def load_tokenizer(folder: str | Path) -> GLMTokenizer:
    """Reads a folder written by `GLMTokenizer.save`.

    Raises:
        FileNotFoundError: the folder has no `glm_tokenizer.json`.
    """
    file = Path(folder) / SAVED_CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{file} missing: not a folder written by GLMTokenizer.save")
    saved = json.loads(file.read_text(encoding="utf-8"))
    return build_tokenizer(saved | {"path": str(folder)})


__all__ = ["GLMTokenizer", "build_tokenizer", "load_tokenizer", "train_wordpiece"]
