"""Examples -> arrays: what the reference feeds its models for one example, number for number.

Kept as in the reference:

- a verbalizer of a single token is looked up without the blank before it;
- the fast form makes room for an answer of no token, and cuts answers after 16;
- the classification form cuts a pair at its end, which may take the second text with it;
- an example without a label has label 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glmkd_nemo.data.superglue import patterns
from glmkd_nemo.data.superglue.config import LABELS, SuperGLUEConfig, form_of
from glmkd_nemo.data.superglue.example import Example
from glmkd_nemo.data.superglue.rows import straight
from glmkd_nemo.data.superglue.sequence import (
    GLMSequence,
    Ids,
    Parts,
    decoder_sequence,
    glm_sequence,
    shorten,
)
from glmkd_nemo.data.tokenizer import GLMTokenizer


@dataclass(frozen=True)
class Feature:
    """One example, ready to be collated. ``c`` is left out where an example is one sequence.

    Attributes:
        text: ``[c, s]`` ids.
        position: ``[c, 2, s]``.
        mask: ``[c]``, tokens of the context (``sep``).
        label: index of the right answer.
        uid: the example's ``guid``.
        target: cloze: ``[c, s]`` tokens to be predicted; single token: ``[c]`` verbalizers.
        logit_mask: cloze: ``[c, s]``, 1 where a token is predicted.
        dec_text, dec_position, dec_mask, dec_target, dec_logit_mask: fast form: the answers,
            ``[c, d]``, ``[c, 2, d]``, ``[c]``, ``[c, d]``, ``[c, d]``, behind ``text [s]``.
        truncated: how many of its sequences had to be shortened.
    """

    text: Ids
    position: Ids
    mask: Ids
    label: int
    uid: str
    target: Ids | None = None
    logit_mask: Ids | None = None
    dec_text: Ids | None = None
    dec_position: Ids | None = None
    dec_mask: Ids | None = None
    dec_target: Ids | None = None
    dec_logit_mask: Ids | None = None
    truncated: int = 0


@functools.lru_cache(maxsize=256)
def _encode(tokenizer: GLMTokenizer, text: str) -> tuple[int, ...]:
    """Passages come back: MultiRC and ReCoRD ask many questions of each."""
    return tuple(tokenizer.encode(text))


def build_feature(example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer) -> Feature:
    """The arrays of an example.

    Raises:
        ValueError: the example does not fit into ``cfg.seq_length`` however short its texts are,
            or a verbalizer is not one token of the vocabulary.
    """
    try:
        return _FORMS[form_of(cfg)](example, cfg, tokenizer)
    except ValueError as error:
        raise ValueError(f"{example.where or example.guid}: {error}") from error


def _single_token(example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer) -> Feature:
    tokens, cut = _context(_parts(example, cfg, tokenizer), cfg, 1)
    sequence = glm_sequence(tokens, cfg.seq_length, tokenizer, blank=True)
    words = patterns.verbalizers(cfg.task, cfg.pattern_id)
    verbalizers = [verbalizer_id(word, tokenizer) for word in words]
    target = np.array(verbalizers, dtype=np.int64)
    return Feature(
        *_read(sequence), *_known(example, cfg), target, sequence.target_mask, truncated=cut
    )


def _multi_token(example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer) -> Feature:
    texts = patterns.answers(cfg.task, cfg.pattern_id, example)
    if cfg.fast_decode:
        return _fast(example, cfg, tokenizer, texts)
    parts, sequences, truncated = _parts(example, cfg, tokenizer), [], 0
    for choice, text in enumerate(texts):
        answer = [*_encode(tokenizer, text), tokenizer.eop_id]
        if patterns.asks_per_answer(cfg.task, cfg.pattern_id):
            parts = _parts(example, cfg, tokenizer, choice)
            answer[:-1] = [verbalizer_id(text, tokenizer)]
        sequence, cut = _answered(parts, answer, cfg, tokenizer)
        sequences.append(sequence)
        truncated += cut
    target = np.stack([sequence.targets for sequence in sequences])
    logit_mask = np.stack([sequence.target_mask for sequence in sequences])
    known = _known(example, cfg)
    return Feature(*_stacked(sequences), *known, target, logit_mask, truncated=truncated)


def _fast(
    example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer, texts: Sequence[str]
) -> Feature:
    tokens, cut = _context(_parts(example, cfg, tokenizer), cfg, 1)
    context = glm_sequence(tokens, cfg.seq_length, tokenizer)
    answers = [[*_encode(tokenizer, text), tokenizer.eop_id] for text in texts]
    decoded = [decoder_sequence(context, answer, tokenizer) for answer in answers]
    return Feature(
        *_read(context),
        *_known(example, cfg),
        dec_text=np.stack([d.ids for d in decoded]),
        dec_position=np.stack([d.positions for d in decoded]),
        dec_mask=np.array([d.sep for d in decoded], dtype=np.int64),
        dec_target=np.stack([d.targets for d in decoded]),
        dec_logit_mask=np.stack([d.target_mask for d in decoded]),
        truncated=cut,
    )


def _generative(example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer) -> Feature:
    text = patterns.answers(cfg.task, cfg.pattern_id, example)[0]
    answer = [*_encode(tokenizer, text), tokenizer.eop_id]
    sequence, cut = _answered(_parts(example, cfg, tokenizer), answer, cfg, tokenizer)
    known = _known(example, cfg)
    return Feature(*_read(sequence), *known, sequence.targets, sequence.target_mask, truncated=cut)


def _pooled(example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer) -> Feature:
    a, seconds = classified_texts(cfg.task, example)
    first, sequences, truncated = _encode(tokenizer, a), [], 0
    for texts in seconds:
        second = [token for text in texts for token in _encode(tokenizer, text)]
        truncated += len(first) + len(second) + 3 > cfg.seq_length
        tokens = [*first, tokenizer.sep_id, *second]
        sequences.append(glm_sequence(tokens, cfg.seq_length, tokenizer))
    known = _known(example, cfg)
    if cfg.task not in ("copa", "record"):
        return Feature(*_read(sequences[0]), *known, truncated=truncated)
    return Feature(*_stacked(sequences), *known, truncated=truncated)


_FORMS = {
    "single_token": _single_token,
    "multi_token": _multi_token,
    "generative": _generative,
    "pooled": _pooled,
}


def classified_texts(task: str, example: Example) -> tuple[str, list[list[str]]]:
    """What is classified: the first text, and the second ones, each in parts to be tokenised."""
    meta, a, b = example.meta, example.text_a, example.text_b
    if task == "copa":
        joiner = "because" if meta["question"] == "cause" else "so"
        return f"{straight(a)} {joiner}", [[straight(meta[f"choice{i}"])] for i in (1, 2)]
    if task == "record":
        return a, [[b, candidate] for candidate in meta["candidates"]]
    if task == "wsc":
        return patterns.marked_pronoun(example), [[meta["span1_text"]]]
    if task == "wic":
        return f"{meta['word']}: {a}", [[b]]
    if task == "multirc":
        return a, [[f"{b} answer: {meta['answer']}"]]
    return a, [[b]]


def verbalizer_id(word: str, tokenizer: GLMTokenizer) -> int:
    """The one token of a verbalizer.

    Raises:
        ValueError: the vocabulary does not have it as one token.
    """
    ids = _encode(tokenizer, word.strip())
    if len(ids) != 1 or ids[0] in {command.id for command in tokenizer.commands.values()}:
        raise ValueError(
            f"the verbalizer {word.strip()!r} is not one token of this vocabulary: set "
            "task.multi_token=true"
        )
    return ids[0]


def _parts(
    example: Example, cfg: SuperGLUEConfig, tokenizer: GLMTokenizer, choice: int = 0
) -> list[Parts]:
    """Ids of the parts of the question, the blank among them."""
    segments = patterns.filled(cfg.task, cfg.pattern_id, example, choice)
    return [
        [
            (
                [tokenizer.mask_id] if part.blank else [*_encode(tokenizer, part.text)],
                part.shortenable,
            )
            for part in segment
        ]
        for segment in segments
    ]


def _context(parts: list[Parts], cfg: SuperGLUEConfig, room: int) -> tuple[list[int], int]:
    """Ids of the question with `room` left behind it, and 1 if it had to be shortened."""
    total = sum(len(ids) for segment in parts for ids, _ in segment)
    excess = max(total + room + 2 - cfg.seq_length, 0)
    return shorten(parts, excess), int(excess > 0)


def _answered(
    parts: list[Parts], answer: list[int], cfg: SuperGLUEConfig, tokenizer: GLMTokenizer
) -> tuple[GLMSequence, int]:
    tokens, cut = _context(parts, cfg, len(answer))
    numbered = cfg.block_position_encoding
    sequence = glm_sequence(
        tokens, cfg.seq_length, tokenizer, answer, block_position_encoding=numbered
    )
    return sequence, cut


def _read(sequence: GLMSequence) -> tuple[Ids, Ids, Ids]:
    """``text``, ``position`` and ``mask`` of a sequence."""
    return sequence.ids, sequence.positions, np.array(sequence.sep, dtype=np.int64)


def _stacked(sequences: Sequence[GLMSequence]) -> tuple[Ids, Ids, Ids]:
    """The same of several sequences."""
    text, position, mask = zip(*(_read(sequence) for sequence in sequences), strict=True)
    return np.stack(text), np.stack(position), np.stack(mask)


def _known(example: Example, cfg: SuperGLUEConfig) -> tuple[int, str]:
    """``label`` and ``uid``."""
    kind = example.guid.partition("-")[0]
    # scored WSC is trained on true rows, where the span comes before the wrong candidates
    if kind == "unlabeled" or (cfg.task == "wsc" and cfg.cloze and kind == "train"):
        return 0, example.guid
    labels = LABELS[cfg.task]
    return labels.index(example.label) if example.label is not None else 0, example.guid
