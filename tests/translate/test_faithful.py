"""What the original really runs where its options and files leave something out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmkd_nemo.translate import Command, translate
from tests.translate.strict import load

BERT = "--tokenizer-model-type=bert-base-uncased"
SIZES = f"--block-lm --num-layers=6 --hidden-size=768 --num-attention-heads=12 {BERT}"
PRETRAIN = f"pretrain_glm.py {SIZES} --train-data data/x --train-iters 10"
FINETUNE = f"finetune_glm.py --finetune --cloze-eval {SIZES} --task=rte --epochs=2"
KD = "--student_model=kd --distill_ft_soft"


def notes_of(found: list[Command]) -> str:
    return "\n".join(note for command in found for note in command.notes)


@pytest.mark.parametrize("given", ["", "--clip-grad=2.0 --weight-decay=0.3"])
def test_what_a_deepspeed_file_leaves_out_is_not_done(tmp_path: Path, given: str):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"optimizer": {"params": {"lr": 0.003}}}))
    text = f"deepspeed --num_gpus=1 {PRETRAIN} --deepspeed --deepspeed_config={file} {given}"
    found = translate(text)
    assert "model.optim.clip_grad=0.0" in found[-1].overrides
    assert "model.optim.weight_decay=0.0" in found[-1].overrides
    assert "has no gradient_clipping: the original runs without" in notes_of(found)
    assert "has no weight_decay: the original runs without" in notes_of(found)
    assert ("--clip-grad=2.0: no effect" in notes_of(found)) == bool(given)
    load(found[-1])


def test_paths_of_teachers_are_spelled():
    (run,) = translate(f"{FINETUNE} '--teacher_load_pretrained=my teacher=1.nemo' {KD}")
    assert "teacher=nemo" in run.overrides
    assert "model.teachers.t0.restore_from_path='my teacher=1.nemo'" in run.overrides
    (cfg,) = load(run)
    assert cfg["model"]["teachers"]["t0"]["restore_from_path"] == "my teacher=1.nemo"
    (run,) = translate(f"{FINETUNE} '--mt_load_pretrained=a b.nemo:c,d.nemo' {KD}")
    assert "model.teachers.t0.restore_from_path='a b.nemo'" in run.overrides
    assert "model.teachers.t1.restore_from_path='c,d.nemo'" in run.overrides


def test_a_folder_with_different_options_is_converted_twice():
    text = f"{FINETUNE} --load-pretrained=a/b --teacher_load_pretrained=a/b/ {KD}"
    first, second, run = found = translate(f"{text} --teacher_num_attention_heads=16")
    assert "model.num_attention_heads=12" in first.overrides
    assert "target=a/b.nemo" in first.overrides
    assert "model.num_attention_heads=16" in second.overrides
    assert "target=a/b_2.nemo" in second.overrides
    assert "restore_from_path=a/b.nemo" in run.overrides
    assert "teacher=a/b_2.nemo" in run.overrides
    assert "a/b is given with different options" in notes_of(found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--student_model=minilmv2 --again_1__distill_ft_soft", True),
        ("--student_model=kd --distill_ft_soft --again_1__distill_ft_hard", False),
        ("--student_model=minilmv2", False),
    ],
)
@pytest.mark.parametrize("tasks", ["rte", "rte,cb"])
def test_a_first_stage_without_answers_is_told_of(options: str, told: bool, tasks: str):
    found = translate(f"auto_tune.py --tasks={tasks} --task_t_load=base {options}")
    assert ("gives=last of minilmv2 and last.nemo" in notes_of(found)) == told
    assert "best.nemo" in " ".join(found[-1].overrides) or "again" not in options


def test_a_folder_of_runs_is_spelled_once():
    text = "auto_tune.py --tasks=rte --task_t_load=base --student_model=kd --distill_ft_soft"
    found = translate(f"{text} --again_1__distill_ft_hard '--save=a b'")
    assert "restore_from_path='a b/rte_kd/best.nemo'" in found[-1].overrides
