"""Generation runs: a ``.nemo`` and prompts, typed in or from a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from glmkd_nemo.checkpoint.archive import check_archive, read_nemo_config
from glmkd_nemo.checkpoint.nemo import check_writable
from glmkd_nemo.data.readers import BadRow, check_raw_file, decode_row, rows
from glmkd_nemo.engine.train import join
from glmkd_nemo.engine.trainer import build_trainer
from glmkd_nemo.generation.config import GenerationConfig
from glmkd_nemo.generation.generator import Generation, Generator
from glmkd_nemo.generation.prompt import read_prompt

HELP = "Prompts, one a line, with [MASK] for a blank; without any they are continued. Ctrl-D ends."


def run(cfg: DictConfig) -> int:
    """Generates as ``cfg`` says (see ``conf/generate.yaml``), in any parallel layout.

    Returns:
        0.

    Raises:
        ValueError: what does not fit, by its key, or by file and line.
        FileNotFoundError, CheckpointDamaged: by name.
    """
    settings = cast(dict[str, Any], OmegaConf.to_container(cfg.generation, resolve=True))
    config = GenerationConfig(**settings)
    if cfg.batch_size < 1:
        raise ValueError(f"batch_size={cfg.batch_size}: give a number of prompts, at least 1.")
    check_archive(cfg.restore_from_path)
    if cfg.output:
        if not cfg.input:
            raise ValueError("output is for prompts from a file: give input=prompts.txt, too.")
        check_writable(Path(cfg.output).parent)
    prompts = read_prompts(cfg.input, cfg.text_key) if cfg.input else None
    generator = restore(cfg)
    if prompts is None:
        return _interactive(generator, config)
    _from_file(generator, config, prompts, cfg.output)
    return 0


def read_prompts(path: str, text_key: str) -> list[tuple[str, str]]:
    """Prompts of a file, each with ``FILE:LINE``.

    Raises:
        ValueError: a row that is no prompt, by file and line, or an unknown kind of file.
        FileNotFoundError: the file does not exist.
    """
    found = []
    for row, _ in rows(check_raw_file(path), "line"):
        text = decode_row(row, text_key)
        if isinstance(text, BadRow):
            raise ValueError(str(text))
        found.append((f"{row.file}:{row.line}", text))
    return found


def restore(cfg: DictConfig) -> Generator:
    """The model of ``restore_from_path``, over all processes that the trainer starts."""
    from glmkd_nemo.models.modelpt import GLMModelPT

    saved = read_nemo_config(cfg.restore_from_path)
    stages = int(cfg.model.pipeline_model_parallel_size)
    world = int(cfg.trainer.devices) * int(cfg.trainer.num_nodes)
    with open_dict(saved):
        saved.update({key: cfg.model[key] for key in cfg.model})
        saved.tensor_model_parallel_size = cfg.model.tensor_model_parallel_size or max(
            world // stages, 1
        )
        saved.virtual_pipeline_model_parallel_size = None
        saved.sequence_parallel = False
    whole = OmegaConf.create({"trainer": OmegaConf.to_container(cfg.trainer), "model": saved})
    trainer = build_trainer(whole)
    join(trainer)
    model = GLMModelPT.restore_from(
        cfg.restore_from_path, override_config_path=whole.model, trainer=trainer
    )
    glm = model.glm.to(trainer.strategy.root_device)
    return Generator(glm, model.tokenizer, cfg.batch_size)


def _from_file(
    generator: Generator,
    config: GenerationConfig,
    prompts: list[tuple[str, str]],
    output: str | None,
) -> None:
    """Writes a line per prompt; a file appears when it is complete."""
    longest = generator.model.config.max_position_embeddings
    for name, text in prompts:
        read_prompt(text, generator.tokenizer, longest, name)  # errors before anything is done
    speaks = torch.distributed.get_rank() == 0
    part = Path(f"{output}.part")
    sink = part.open("w", encoding="utf-8") if output and speaks else None
    texts = [text for _, text in prompts]
    with tqdm(total=len(texts), desc="generating", unit="prompt", disable=not speaks) as bar:
        for start in range(0, len(texts), generator.batch_size):
            batch = texts[start : start + generator.batch_size]
            for text, made in zip(
                batch, generator.generate(batch, config, first=start), strict=True
            ):
                if speaks:
                    bar.write(_line(text, made), file=sink or sys.stdout)
                bar.update()
    if sink is not None:
        sink.close()
        os.replace(part, cast(str, output))
        print(f"wrote {output}", file=sys.stderr, flush=True)


def _line(prompt: str, made: Generation) -> str:
    row = {
        "prompt": prompt,
        "text": made.text,
        "filled": made.filled,
        "score": round(made.score, 4),
    }
    return json.dumps(row, ensure_ascii=False)


def _interactive(generator: Generator, config: GenerationConfig) -> int:
    """Answers prompts until their end."""
    speaks = torch.distributed.get_rank() == 0
    if speaks:
        print(HELP, file=sys.stderr, flush=True)
    for index, text in enumerate(_typed(speaks)):
        try:
            (made,) = generator.generate([text], config, first=index)
        except ValueError as error:  # the next prompt may be a better one
            if speaks:
                print(f"error: {error}", file=sys.stderr, flush=True)
            continue
        if speaks:
            several = len(made.spans) > 1
            print(made.filled if several else made.text, flush=True)
    return 0


def _typed(speaks: bool) -> Iterator[str]:
    """Lines that the first rank reads, on all ranks; empty ones are left out."""
    while True:
        box: list[str | None] = [_next_line() if speaks else None]
        torch.distributed.broadcast_object_list(box, src=0)
        if box[0] is None:
            return
        if box[0].strip():
            yield box[0]


def _next_line() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None
