"""Small fine-tunings on the real path: rows, a pre-trained ``.nemo``, stages, several layouts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch.distributed as dist
from hydra import compose, initialize_config_dir
from megatron.core import parallel_state
from nemo.core.config import hydra_runner  # noqa: F401  (registers the resolvers of conf/)
from omegaconf import DictConfig, open_dict

from glmkd_nemo.config.finetune import FinetuneSchema
from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import CONF
from glmkd_nemo.engine.finetune import finetune
from glmkd_nemo.engine.train import train
from tests.distillation.runs import config, write_text

WORDS = [f"w{i}" for i in range(40)]
TWO = "trainer.devices=2"
LAYOUTS: dict[str, list[str]] = {
    "dp2": [TWO],
    "tp2": [TWO, "model.tensor_model_parallel_size=2"],
    "tp2_sp": [TWO, "model.tensor_model_parallel_size=2", "model.sequence_parallel=true"],
    "pp2": [TWO, "model.pipeline_model_parallel_size=2"],
}
# rows of the task, and what differs in its form: every kind of head and of batch
FORMS: dict[str, tuple[str, list[str]]] = {
    "cloze": ("copa", []),
    "fast": ("copa", ["task.fast_decode=true"]),
    "classifier": ("rte", ["task.cloze=false", "task.dropout=0"]),
    "written": ("wsc_generative", []),
}


def write_rows(root: Path) -> None:
    """Rows in the official form, made of the corpus' words; train, val and a test set."""
    rng = random.Random(5)
    for split, count in (("train", 12), ("val", 7), ("test", 5)):
        rows: dict[str, list[dict[str, Any]]] = {"copa": [], "rte": [], "wsc_generative": []}
        for idx in range(count):
            a, b, c = (" ".join(rng.choices(WORDS, k=rng.randint(2, 5))) for _ in range(3))
            label = rng.randrange(2)
            row = {"premise": a, "choice1": b, "choice2": c, "question": "cause", "idx": idx}
            rows["copa"].append({**row, "label": label})
            relation = ("entailment", "not_entailment")[label]
            rows["rte"].append({"premise": a, "hypothesis": b, "label": relation, "idx": idx})
            target = {"span1_text": b, "span2_text": "w1", "span1_index": 0, "span2_index": 9}
            words = {"text": f"{b} {' '.join(['w2'] * (9 - len(b.split())))} w1 w3"}
            rows["wsc_generative"].append({**words, "target": target, "label": True, "idx": idx})
        for task, found in rows.items():
            (root / task).mkdir(exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in found)
            (root / task / f"{split}.jsonl").write_text(text)


def settings(root: Path, folder: Path, form: str, changes: list[str]) -> list[str]:
    """Overrides of a run."""
    task, own = FORMS[form]
    return [
        f"task={task}",
        f"task.data_dir={root / task}",
        "task.seq_length=32",
        *own,
        f"exp_manager.explicit_log_dir={folder}",
        f"restore_from_path={root / 't' / 'tiny.nemo'}",
        "trainer.accelerator=cpu",
        "model.micro_batch_size=2",
        "model.global_batch_size=4",
        "model.eval_batch_size=3",
        "model.hidden_dropout=0.0",
        "model.attention_dropout=0.0",
        "model.optim.lr=0.01",
        "model.optim.sched.warmup_ratio=null",
        "epochs=2",
        "evaluate_first=false",
        *changes,
    ]


def composed(overrides: list[str]) -> DictConfig:
    """``conf/finetune.yaml`` with overrides, as the script composes it."""
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("finetune", check_overrides(overrides, FinetuneSchema, CONF, {}))


def run(root: Path, folder: Path, form: str, changes: list[str]) -> dict[str, Any]:
    """Fine-tunes; what ``results.json`` says."""
    given = settings(root, folder, form, changes)
    cfg = composed(given)
    with open_dict(cfg):
        cfg.exp_manager.create_tensorboard_logger = False
    code = finetune(cfg, lambda more: composed([*given, *more]))
    assert code == 0
    if dist.is_initialized():
        dist.barrier()
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    for name in ("predictions", "predictions_test"):
        if (path := folder / name / "scores.jsonl").is_file():
            found[name] = [json.loads(line)["scores"] for line in path.read_text().splitlines()]
    return found


DISTIL = ["epochs=1", "stages=tinybert"]


def one_process(root: str) -> dict[str, Any]:
    """A pre-trained model, and every form of fine-tuning; a student in two stages."""
    base = Path(root)
    write_text(base)
    write_rows(base)
    train(config(base, base / "t", trainer__max_steps=3))
    found = {form: run(base, base / form, form, ["evaluate_test=true"]) for form in FORMS}
    teacher = f"teacher={base / 'cloze' / 'best.nemo'}"
    found["stages"] = run(base, base / "stages", "cloze", [*DISTIL, teacher])
    found["again"] = run(base, base / "stages", "cloze", [*DISTIL, teacher])
    own_teacher = f"teacher={base / 'written' / 'best.nemo'}"  # answers of tokens, not choices
    found["written_stages"] = run(base, base / "written_stages", "written", [*DISTIL, own_teacher])
    for name, more in (("changed", ["epochs=3"]), ("missing", ["task.train=nothing"])):
        try:
            run(base, base / ("cloze" if name == "changed" else name), "cloze", more)
        except (ValueError, OSError) as error:
            found[name] = str(error)
    return found


def many_processes(root: str, runs: list[tuple[str, str]]) -> dict[str, Any]:
    """The same at other layouts: forms (or ``stages``) with their layouts."""
    base, found = Path(root), {}
    teacher = f"teacher={base / 'cloze' / 'best.nemo'}"
    for form, layout in runs:
        parallel_state.destroy_model_parallel()
        more = [*DISTIL, teacher] if form == "stages" else ["evaluate_test=true"]
        named = "cloze" if form == "stages" else form
        folder = base / f"{form}_{layout}"
        found[f"{form}_{layout}"] = run(base, folder, named, [*LAYOUTS[layout], *more])
    return found
