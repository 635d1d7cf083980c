"""The floor: what a distillation step cannot do without, in plain torch, without Megatron-Core.

    python scripts/bench/plain.py [--threads 1 2] [--repeat 5]

A pre-layernorm transformer as GLM is one: two position embeddings, attention by torch's SDPA with a
boolean prefix mask, GELU MLP of 4 h, head tied to the word embedding. The floor of a step is a
training step of the student (gradients dropped, forward, logits of all positions, cross-entropy of
the positions to be predicted, backward, torch's AdamW) and a forward of the teacher up to its
logits, without gradient. Nothing is compared with the teacher: a loss comes on top.

`scripts/bench/step.py` runs it round by round with the engine's steps; this script runs it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run from a clone, not installed

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.bench.parts import Parts
from scripts.bench.sizes import IGNORED, Size, batch


class Layer(nn.Module):
    """One transformer layer, ``[b, s, h]`` to ``[b, s, h]``."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``mask`` ``[b, 1, s, s]`` is true where a position may look."""
        b, s, h = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, h // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(b, s, h))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGLM(nn.Module):
    """Token ids to logits ``[b, s, V]`` of all positions."""

    def __init__(self, layers: int, size: Size) -> None:
        super().__init__()
        self.words = nn.Embedding(size.vocab, size.hidden)
        self.positions = nn.Embedding(size.positions + 1, size.hidden)
        self.blocks = nn.Embedding(size.positions + 1, size.hidden)
        self.layers = nn.ModuleList(Layer(size.hidden, size.heads) for _ in range(layers))
        self.norm = nn.LayerNorm(size.hidden)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids: Tensor, position: Tensor, context: Tensor) -> Tensor:
        """``position`` ``[b, 2, s]``; ``context`` ``[b]``: length of what all positions see."""
        s = ids.shape[1]
        place = torch.arange(s, device=ids.device)
        mask = (place[None, :] <= place[:, None]) | (place < context[:, None, None])
        x = self.words(ids) + self.positions(position[:, 0]) + self.blocks(position[:, 1])
        for layer in self.layers:
            x = layer(x, mask[:, None])
        return F.linear(self.norm(x), self.words.weight)


class PlainStudent:
    """A training step of the student."""

    def __init__(self, size: Size, parts: Parts) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = PlainGLM(size.student_layers, size).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01)
        self.data = {name: value.to(device) for name, value in batch(size).items()}
        self.parts = parts

    def step(self) -> None:
        """Runs it."""
        data, part = self.data, self.parts.part
        with part("optimizer"):
            self.optimizer.zero_grad()
        with part("student"):
            logits = self.model(data["input_ids"], data["position_ids"], data["attention_mask"])
        with part("loss"):
            labels = data["labels"].masked_fill(data["loss_mask"] == 0, IGNORED)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        del logits
        with part("backward"):
            loss.backward()
        with part("optimizer"):
            self.optimizer.step()


class PlainTeacher:
    """A forward of the teacher."""

    def __init__(self, size: Size, parts: Parts) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = PlainGLM(size.teacher_layers, size).to(device).eval().requires_grad_(False)
        self.data = {name: value.to(device) for name, value in batch(size).items()}
        self.parts = parts

    def step(self) -> None:
        """Runs it."""
        data = self.data
        with self.parts.part("teacher"), torch.no_grad():
            self.model(data["input_ids"], data["position_ids"], data["attention_mask"])


if __name__ == "__main__":
    from scripts.bench.step import main

    main(["--methods", *sys.argv[1:]])
