"""How tokens, blanks and blocks are laid out in one sequence, with labels and positions."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from glmkd_nemo.data.config import BlockInfillingConfig
from glmkd_nemo.data.span_sampling import Ids, Span, near_blanks
from glmkd_nemo.data.tokenizer import GLMTokenizer

Sample = dict[str, Any]


class BlockLayout:
    """Writes samples for given blanks; draws only the order of blocks, the shift and the noise.

    Args:
        cfg: options.
        tokenizer: gives the command tokens.
        max_tokens: longest window (see `BlockInfilling`).

    Raises:
        ValueError: the tokenizer lacks a command token that an option needs.
    """

    def __init__(self, cfg: BlockInfillingConfig, tokenizer: GLMTokenizer, max_tokens: int) -> None:
        self.config = cfg
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        command = tokenizer.command_token
        self._mask_of = {
            "bert": command("MASK"),
            "sentence": command("sMASK" if cfg.task_mask else "MASK"),
            "gpt": command("gMASK" if cfg.task_mask else "MASK"),
        }
        needs_noise = cfg.block_mask_prob > 0 or cfg.context_mask_ratio > 0
        self._noise_id = command("dBLOCK") if needs_noise else -1
        if cfg.sentinel_token:
            command("sop1")

    def masked(self, tokens: Ids, spans: list[Span]) -> Sample:
        """BERT's objective: everything is context, masks in place, loss on them."""
        blank = np.zeros(len(tokens), dtype=bool)
        for start, end in spans:
            blank[start:end] = True
        positions = np.stack([np.arange(len(tokens)), np.zeros(len(tokens), dtype=np.int64)])
        inputs = np.where(blank, self._mask_of["bert"], tokens)
        return _sample(
            inputs, tokens.copy(), blank.astype(np.int64), positions, len(tokens), "bert"
        )

    def continuation(self, tokens: Ids, length: int) -> Sample:
        """One block: the last `length` tokens; it has no end token, the text may go on."""
        context, block = tokens[:-length], tokens[-length:]
        mask = [self._mask_of["gpt"]]
        inputs = np.concatenate((context, mask, [self.tokenizer.sop_id], block[:-1]))
        labels = np.concatenate((context, mask, block))
        place = np.minimum(np.arange(len(inputs)), len(context))
        if self.config.block_position_encoding:
            inside = np.maximum(np.arange(len(inputs)) - len(context), 0)
        else:
            inside = (np.arange(len(inputs)) > len(context)).astype(np.int64)
        loss_mask = np.zeros(len(inputs), dtype=np.int64)
        # The start token of a further document is given, not predicted.
        loss_mask[len(context) + 1 :] = block != self.tokenizer.cls_id
        sep = len(context) + 1
        return _sample(inputs, labels, loss_mask, np.stack([place, inside]), sep, "gpt")

    def _places(self, size: int, spans: list[Span], rng: Random) -> Ids:
        """Position in the text of each token [size]; a blank takes one position."""
        step = np.ones(size, dtype=np.int64)
        for start, end in spans:
            step[start + 1 : end] = 0
        places = np.cumsum(step) - 1
        if self.config.random_position and places[-1] < self.max_tokens - 1:
            places = places + rng.randrange(0, self.max_tokens - int(places[-1]))
        return places

    def blocks(
        self, tokens: Ids, spans: list[Span], mode: str, rng: Random, noise: Random
    ) -> Sample | None:
        """Context with blanks, then the blocks; None where the blanks cannot be used."""
        cfg, eos = self.config, self.tokenizer.eos_id
        if cfg.sentinel_token and len(spans) > self.tokenizer.cfg.sentinels:
            return None  # more blanks than numbered masks
        places = self._places(len(tokens), spans, rng)
        ordered = sorted(spans)
        if cfg.shuffle_blocks and not cfg.encoder_decoder:
            ordered = list(spans)
            rng.shuffle(ordered)
        assert not any((tokens[start:end] == eos).any() for start, end in ordered), (
            "a blank across documents"
        )
        numbers = {span: i if cfg.sentinel_token else 0 for i, span in enumerate(ordered)}
        context, context_places, stretches = self._context(tokens, places, numbers, mode)
        inputs, labels, block_places = self._targets(tokens, places, numbers, mode, noise)
        sep = len(context)
        all_inputs = np.concatenate((context, inputs))
        if mode == "bert" and cfg.context_mask_ratio > 0:
            near = near_blanks(stretches, cfg.context_mask_range)
            count = min(int(cfg.context_mask_ratio * len(tokens)), len(near))
            all_inputs[rng.sample(near, count)] = self._noise_id
        loss_mask = (np.arange(len(all_inputs)) >= sep).astype(np.int64)
        positions = np.concatenate((context_places, block_places), axis=1)
        all_labels = np.concatenate((context, labels))
        return _sample(all_inputs, all_labels, loss_mask, positions, sep, mode)

    def _context(
        self, tokens: Ids, places: Ids, numbers: dict[Span, int], mode: str
    ) -> tuple[Ids, npt.NDArray[np.int64], list[Span]]:
        """Text with each blank as one mask [c], its positions [2, c], stretches between blanks."""
        kept, stretches, last, size = [], [], 0, 0
        ids = tokens.copy()
        for (start, end), number in sorted(numbers.items()):
            numbered = mode == "bert" and number > 0
            ids[start] = self._command("MASK", number) if numbered else self._mask_of[mode]
            kept.append(np.arange(last, start + 1))
            stretches.append((size, size + start - last))
            size += start - last + 1
            last = end
        if last < len(tokens):
            kept.append(np.arange(last, len(tokens)))
            stretches.append((size, size + len(tokens) - last))
        index = np.concatenate(kept)
        positions = np.stack([places[index], np.zeros(len(index), dtype=np.int64)])
        return ids[index], positions, stretches

    def _targets(
        self, tokens: Ids, places: Ids, numbers: dict[Span, int], mode: str, noise: Random
    ) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
        """Inputs [t], labels [t] and positions [2, t] of the blocks, in their order."""
        cfg = self.config
        inputs: list[int] = []
        labels: list[int] = []
        place: list[int] = []
        inside: list[int] = []
        starts = [self._command("sop", number) for number in numbers.values()]
        for i, (start, end) in enumerate(numbers):
            block = tokens[start:end].tolist()
            last = i == len(numbers) - 1
            labels += block
            labels.append(
                starts[i + 1] if cfg.encoder_decoder and not last else self.tokenizer.eop_id
            )
            if cfg.block_mask_prob > 0 and mode == "bert":
                block = [
                    self._noise_id if noise.random() < cfg.block_mask_prob else t for t in block
                ]
            inputs += [starts[i], *block]
            count = end - start + 1
            place += [self.max_tokens if cfg.sentinel_token else int(places[start])] * count
            inside += list(range(1, count + 1)) if cfg.block_position_encoding else [1] * count
        positions = np.array([place, inside], dtype=np.int64)
        return np.array(inputs, dtype=np.int64), np.array(labels, dtype=np.int64), positions

    def _command(self, name: str, number: int) -> int:
        return self.tokenizer.command_token(name if number == 0 else f"{name}{number}")


def _sample(
    inputs: Ids, labels: Ids, loss_mask: Ids, positions: Ids, sep: int, mode: str
) -> Sample:
    return {
        "input_ids": inputs,
        "labels": labels,
        "loss_mask": loss_mask,
        "position_ids": positions,
        "attention_mask": sep,
        "mode": mode,
    }
