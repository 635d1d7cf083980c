"""GLM's command tokens: names, texts and the ids that published checkpoints were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmkd_nemo.data.config import TokenizerConfig

START, END = "<|startofpiece|>", "<|endofpiece|>"
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class CommandToken:
    """A control token; `lstrip` tokens swallow the white space before them in text."""

    name: str
    text: str
    id: int
    lstrip: bool = False


def _task_tokens(cfg: TokenizerConfig, first: int, lstrip: bool) -> list[CommandToken]:
    """[gMASK], [sMASK] and [dBLOCK] as the options ask, numbered from `first`."""
    names = ["gMASK", "sMASK"] if cfg.task_mask else []
    if cfg.task_mask and cfg.type == "sentencepiece" and cfg.fix_command_token:
        names.reverse()  # the corrected Chinese layout has them the other way round
    tokens = [CommandToken(n, f"[{n}]", first + i, lstrip) for i, n in enumerate(names)]
    if cfg.block_mask:
        tokens.append(CommandToken("dBLOCK", "[dBLOCK]", first + len(tokens)))
    return tokens


def _sentinels(cfg: TokenizerConfig, first: int) -> list[CommandToken]:
    """Numbered mask/start pairs 1..sentinels-1 (number 0 is the plain pair)."""
    tokens = []
    for i in range(1, cfg.sentinels):
        tokens.append(CommandToken(f"MASK{i}", f"[MASK{i}]", first))
        tokens.append(CommandToken(f"sop{i}", f"<|startofpiece{i}|>", first + 1))
        first += 2
    return tokens


def bert_commands(vocab: Mapping[str, int], cfg: TokenizerConfig) -> list[CommandToken]:
    """WordPiece: BERT's own specials, then sop, eop, task tokens, sentinels; [PAD] is eos too."""
    size = len(vocab)
    specials = [("pad", "[PAD]"), ("ENC", "[CLS]"), ("MASK", "[MASK]"), ("unk", "[UNK]")]
    specials += [("sep", "[SEP]"), ("eos", "[PAD]")]
    tokens = [CommandToken(name, text, vocab[text]) for name, text in specials]
    tokens += [CommandToken("sop", START, size), CommandToken("eop", END, size + 1)]
    tokens += _task_tokens(cfg, size + 2, lstrip=False)
    return tokens + _sentinels(cfg, _next_id(tokens, size))


def gpt2_commands(vocab: Mapping[str, int], cfg: TokenizerConfig) -> list[CommandToken]:
    """GPT-2: everything but pad = eos = <|endoftext|> follows the vocabulary."""
    size, end = len(vocab), vocab[END_OF_TEXT]
    tokens = [CommandToken("pad", END_OF_TEXT, end), CommandToken("eos", END_OF_TEXT, end)]
    added = [("sop", START), ("eop", END), ("ENC", "[CLS]"), ("MASK", "[MASK]")]
    added += [("sep", "[SEP]"), ("unk", "[UNK]")]
    tokens += [
        CommandToken(name, text, size + i, lstrip=name == "MASK")
        for i, (name, text) in enumerate(added)
    ]
    tokens += _task_tokens(cfg, size + len(added), lstrip=True)
    return tokens + _sentinels(cfg, _next_id(tokens, size))


def roberta_commands(vocab: Mapping[str, int], cfg: TokenizerConfig) -> list[CommandToken]:
    """RoBERTa's BPE: its own specials under GLM's texts, then sop, eop and the rest."""
    size, end = len(vocab), vocab["</s>"]
    tokens = [CommandToken("pad", END_OF_TEXT, end), CommandToken("eos", END_OF_TEXT, end)]
    tokens += [
        CommandToken("sep", "[SEP]", end),
        CommandToken("ENC", "[CLS]", vocab["<s>"]),
        CommandToken("MASK", "[MASK]", vocab["<mask>"], lstrip=True),
        CommandToken("unk", "[UNK]", vocab["<unk>"]),
        CommandToken("sop", START, size),
        CommandToken("eop", END, size + 1),
    ]
    tokens += _task_tokens(cfg, size + 2, lstrip=True)
    return tokens + _sentinels(cfg, _next_id(tokens, size))


def sentencepiece_commands(size: int, cfg: TokenizerConfig) -> list[CommandToken]:
    """Chinese GLM: five specials, one unused id, sop, eop, then task tokens.

    Published checkpoints come in two layouts. Without `fix_command_token` (10B) the task tokens
    begin at the id of eop, so the first of them *is* eop; with it (large) they follow eop and the
    order of [gMASK] and [sMASK] is turned round. New models want `fix_command_token`.
    """
    specials = [("pad", END_OF_TEXT, 0), ("eos", END_OF_TEXT, 0), ("sep", "[SEP]", 1)]
    specials += [("ENC", "[CLS]", 2), ("MASK", "[MASK]", 3), ("unk", "[UNK]", 4)]
    specials += [("sop", START, 6), ("eop", END, 7)]
    tokens = [CommandToken(n, text, size + i, lstrip=n == "MASK") for n, text, i in specials]
    first = size + (8 if cfg.fix_command_token else 7)
    tokens += _task_tokens(cfg, first, lstrip=True)
    return tokens + _sentinels(cfg, _next_id(tokens, size))


def huggingface_commands(
    size: int, own: Mapping[str, tuple[str, int]], cfg: TokenizerConfig
) -> list[CommandToken]:
    """Any other vocabulary: its own specials where it has them, the others appended.

    `own` maps pad, eos, ENC, MASK, sep, unk to (text, id) where the vocabulary has them. End of
    text and padding are one token, as everywhere in GLM: the vocabulary's eos, else its pad.
    """
    end = own.get("eos") or own.get("pad")
    tokens: list[CommandToken] = []
    free = size
    if end is None:
        end = (END_OF_TEXT, free)
        free += 1
    tokens += [CommandToken("pad", *end), CommandToken("eos", *end)]
    tokens += [CommandToken("sop", START, free), CommandToken("eop", END, free + 1)]
    free += 2
    for name, text in (("ENC", "[CLS]"), ("MASK", "[MASK]"), ("sep", "[SEP]"), ("unk", "[UNK]")):
        if name in own:
            tokens.append(CommandToken(name, *own[name], lstrip=False))
        else:
            tokens.append(CommandToken(name, text, free, lstrip=name == "MASK"))
            free += 1
    tokens += _task_tokens(cfg, free, lstrip=True)
    return tokens + _sentinels(cfg, _next_id(tokens, size))


def _next_id(tokens: Sequence[CommandToken], size: int) -> int:
    return max([size] + [token.id + 1 for token in tokens])
