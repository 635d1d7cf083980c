"""Any fast tokenizer of the Hugging Face hub, or a folder saved by `save_pretrained`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OWN = {"pad": "pad", "eos": "eos", "MASK": "mask", "sep": "sep", "unk": "unk"}


class HuggingFace:
    """Wraps `transformers.AutoTokenizer`.

    Args:
        path: folder or model name.

    Raises:
        ValueError: no path, nothing loadable there, or a tokenizer without the fast (Rust) engine.
    """

    def __init__(self, path: str | None) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        if not path:
            raise ValueError("tokenizer.path is not set: give a model name or a folder")
        logging.set_verbosity_error()
        try:
            engine: Any = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ValueError(
                f"tokenizer.path={path}: no Hugging Face tokenizer there ({first_line}); give a "
                "folder with tokenizer.json, or a model name with network access"
            ) from error
        if not getattr(engine, "is_fast", False):
            raise ValueError(f"tokenizer.path={path}: only fast tokenizers are supported")
        self._engine = engine
        self.size = len(engine)
        self.own = self._own_specials()

    def _own_specials(self) -> dict[str, tuple[str, int]]:
        """GLM name -> (text, id) of the special tokens the vocabulary has itself."""
        own: dict[str, tuple[str, int]] = {}
        for name, theirs in _OWN.items():
            text = getattr(self._engine, f"{theirs}_token", None)
            if text is not None:
                own[name] = (str(text), int(getattr(self._engine, f"{theirs}_token_id")))
        start = self._engine.cls_token or self._engine.bos_token
        # GPT-2 style vocabularies use one token for start and end: then the start is ours to add.
        if start is not None and start != self._engine.eos_token:
            own["ENC"] = (str(start), int(self._engine.convert_tokens_to_ids(start)))
        return own

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return list(self._engine.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Text of ids below `size`."""
        return str(self._engine.decode(ids, clean_up_tokenization_spaces=False))

    def token(self, token_id: int) -> str:
        """Text of one token."""
        text = str(self._engine.convert_ids_to_tokens(token_id))
        return text.replace("Ġ", " ").replace("Ċ", "\n")

    def is_word_start(self, token_id: int) -> bool:
        """Whether the token begins a word."""
        token = str(self._engine.convert_ids_to_tokens(token_id))
        if self._continuation_by_marker():
            return not token.startswith("##")
        return token[:1] in ("Ġ", "Ċ", "▁")

    def _continuation_by_marker(self) -> bool:
        model = getattr(getattr(self._engine, "backend_tokenizer", None), "model", None)
        return type(model).__name__ == "WordPiece"

    def tokens(self) -> list[str]:
        """All tokens by id."""
        return [str(t) for t in self._engine.convert_ids_to_tokens(list(range(self.size)))]

    def save(self, folder: Path) -> None:
        """Writes the vocabulary's files."""
        self._engine.save_pretrained(str(folder))
