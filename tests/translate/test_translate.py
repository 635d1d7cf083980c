"""Command lines of the original in their several forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glmkd_nemo.translate import Command, translate
from glmkd_nemo.translate.launcher import Launcher
from glmkd_nemo.translate.layout import layout_of
from glmkd_nemo.translate.main import main
from glmkd_nemo.translate.show import as_text, page, quoted
from tests.translate.strict import load

SIZES = "--block-lm --num-layers=6 --hidden-size=768 --num-attention-heads=12"
BERT = "--tokenizer-model-type=bert-base-uncased"
PRETRAIN = f"pretrain_glm.py {SIZES} {BERT} --train-data data/x --train-iters 10"
FINETUNE = f"finetune_glm.py --finetune --cloze-eval {SIZES} {BERT} --task=rte --epochs=2"
TEACHER = "--teacher_load_pretrained=t.nemo"


def run_of(text: str) -> Command:
    return translate(text)[-1]


def test_words_text_lines_and_variables_are_one():
    words = ["A=b c", "python", "-u", *PRETRAIN.split()]
    text = "A='b c' python -u \\\n" + PRETRAIN.replace(" --train-data", " \\\n  --train-data")
    assert translate(words) == translate(text)
    assert run_of(text).environment == {"A": "b c"}
    assert "trainer.devices" not in as_text(run_of(text))


def test_a_deepspeed_file_that_is_there_is_read(tmp_path: Path):
    file = tmp_path / "ds.json"
    params = {"lr": 0.003, "betas": [0.8, 0.9], "eps": 1e-7, "weight_decay": 0.2}
    settings = {
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 5,
        "fp16": {"enabled": True},
        "gradient_clipping": 0.5,
        "optimizer": {"params": params},
    }
    file.write_text(json.dumps(settings))
    text = f"deepspeed --include=localhost:1,2 {PRETRAIN} --deepspeed --deepspeed_config={file}"
    found = run_of(f"{text} --lr=1 --batch-size=7")
    for expected in (
        *("model.micro_batch_size=3", "model.global_batch_size=30", "model.optim.lr=0.003"),
        *("model.optim.betas=[0.8,0.9]", "model.optim.weight_decay=0.2", "trainer.precision=16"),
        *("model.optim.clip_grad=0.5", "trainer.devices=2"),
    ):
        assert expected in found.overrides
    assert found.environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert any("--lr=1: no effect" in note and "0.003" in note for note in found.notes)
    back = run_of(f"{text} --lr=1 --batch-size=7 --args_to_ds_config")
    assert "model.micro_batch_size=7" in back.overrides
    assert "trainer.precision=32" in back.overrides
    file.write_text("{")
    with pytest.raises(ValueError, match=r"ds\.json is no JSON"):
        translate(text)
    with pytest.raises(ValueError, match="there is no such file here"):
        translate(text.replace("ds.json", "other.json"))


@pytest.mark.parametrize(
    ("options", "devices", "nodes", "visible"),
    [
        ("--include=localhost:0,1,3", 3, 1, "0,1,3"),
        ("--num_gpus 4 --num_nodes 2", 4, 2, None),
        ("-i a:0,1@b:0,1", 2, 2, "0,1"),
        ("--include=a@b:0,1 --hostfile={hosts}", 2, 2, "0,1"),
        ("--exclude=a:1@b:1 -H {hosts}", 1, 2, "0"),
        ("--hostfile={hosts} --num_gpus=1", 1, 2, "0"),
    ],
)
def test_launcher(options: str, devices: int, nodes: int, visible: str | None, tmp_path: Path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2  # one\nb slots=2\n")
    found = layout_of(Launcher(tuple(options.format(hosts=hosts).split())), {})
    assert (found.devices, found.nodes, found.visible) == (devices, nodes, visible)
    assert any("several nodes" in note for note in found.notes) == (nodes > 1)


def test_change_mp():
    (found,) = translate("python change_mp.py some/folder/ 4")
    assert found.script == "convert_checkpoint"
    assert found.overrides[1:] == (
        *("target=some/folder_MP4", "format=original", "model_parallel_size=4"),
    )
    load(found)


def test_each_checkpoint_is_converted_once():
    text = f"{FINETUNE} --load-pretrained=a/b --teacher_load_pretrained=a/b/ --student_model=kd"
    found = translate(f"{text} --distill_ft_soft --teacher_num_attention_heads=12")
    assert [command.script for command in found] == ["convert_checkpoint", "finetune"]
    assert "restore_from_path=a/b.nemo" in found[1].overrides
    assert "teacher=a/b.nemo" in found[1].overrides


def test_several_teachers_of_which_some_options_are_given_once():
    text = f"{FINETUNE} --mt_load_pretrained=a:b --mt_num_attention_heads=16 --student_model=kd"
    *conversions, run = translate(f"{text} --distill_ft_soft --mt_has_grad")
    assert len(conversions) == 2
    assert "model.teachers.t1.restore_from_path=b.nemo" in run.overrides
    assert "model.teachers.t1.trainable=true" in run.overrides
    with pytest.raises(ValueError, match="mt_load_pretrained=a:b is not of 3 teachers"):
        translate(f"{text} --mt_num_layers=1:2:3")


def test_evaluation():
    text = f"finetune_glm.py --finetune {SIZES} {BERT} --task=lambda --load-pretrained=x.nemo"
    found = run_of(f"{text} --valid-data=d/lambada_test.jsonl --unidirectional")
    assert found.script == "evaluate"
    assert "task.unidirectional=true" in found.overrides
    assert load(found)[0]["task"]["data_dir"] == "d"
    assert run_of(f"{FINETUNE} --load-pretrained=x.nemo --epochs=0").script == "evaluate"


def test_generation_tasks():
    text = f"finetune_glm.py --finetune {SIZES} {BERT} --task=cnn_dm --epochs=3 --num-beams=4"
    (cfg,) = load(run_of(f"{text} --src-seq-length=100 --load-pretrained=x.nemo --select-topk"))
    assert (cfg["task"]["num_beams"], cfg["task"]["max_src_length"]) == (4, 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no command is given"),
        ("python train.py --lr=1", "none of the original's programs"),
        ("python pretrain_gml.py", "did you mean pretrain_glm.py"),
        (f"{PRETRAIN} --hiden-size=1", "did you mean --hidden-size"),
        (PRETRAIN.replace("--block-lm", ""), "only GLM with blank infilling"),
        (f"{PRETRAIN} --optimizer=adafactor", "only Adam"),
        (f"{FINETUNE} --task=squad", "no equivalent here"),
        (f"{FINETUNE} --student_model=kdd {TEACHER}", "kdd is unknown; did you mean kd"),
        (
            f"deepspeed --inclde=localhost:0 {PRETRAIN}",
            "no option --inclde; did you mean --include",
        ),
        ("python change_mp.py x", "takes a checkpoint folder and a size"),
        ("python auto_tune.py --tasks=copaa", "'copaa' is unknown; did you mean copa"),
        ("python auto_tune.py --mdel=x", "no option --mdel; did you mean --"),
        ("python auto_tune.py --ds_optimizer__params__lr=1;2 --tasks=rte", "2 values for 1 tasks"),
        ("python auto_tune.py --task_t_load=mine --tasks=rte", "which says where that teacher is"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        translate(text)


def test_auto_tune_reads_the_file_of_teachers(tmp_path: Path):
    file = tmp_path / "teachers.json"
    rows = [["--teacher_load_pretrained", ["mine"]], ["--teacher_fp16", None]]
    file.write_text(json.dumps({"mine": {"tasks": {"rte": "/a/rte"}, "args": rows}}))
    text = f"auto_tune.py --tasks=rte --task_t_load=mine --task_t_load_path={file}"
    found = run_of(f"{text} --student_model=kd --distill_ft_soft --gpus=0")
    assert "teacher=../GLM/data/a/rte.nemo" in found.overrides


@pytest.mark.parametrize(("more", "own"), [("", True), ("--fp16", False), ("--mt_has_grad", False)])
def test_a_teacher_in_half_precision_beside_a_student_in_single(more: str, own: bool):
    teacher = "--teacher_load_pretrained=x --teacher_num_layers=12 --teacher_num_attention_heads=12"
    text = f"pretrain.py --block-lm --train-data=bert-base --student_model=kd {teacher} {more}"
    found = run_of(f"{text} --num-layers=6 --teacher_fp16 --train-iters=10")
    assert ("model.teachers.t0.precision=16" in found.overrides) == own
    assert any("--teacher_fp16" in note for note in found.notes) == ("mt_has" in more)


def test_an_option_given_twice_is_taken_away_in_again():
    text = "auto_tune.py --tasks=rte --task_t_load=base --student_model=kd --distill_ft_soft"
    found = translate(f"{text} --distill_ft_hard --again_1__distill_ft_hard")
    first, second = [command for command in found if command.script == "finetune"]
    assert "model.distill.terms.hard.weight=0.0" not in first.overrides
    assert "method=soft_labels" in second.overrides
    assert "restore_from_path=" in " ".join(second.overrides)


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--", *PRETRAIN.split()]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "command.sh"
    file.write_text(PRETRAIN)
    assert main([str(file)]) == 0
    assert capsys.readouterr().out == printed == page(translate(PRETRAIN)) + "\n"
    assert main([PRETRAIN, "two"]) == 2
    assert "give one command" in capsys.readouterr().err
    assert main(["--rnu", "--", "x"]) == 2
    assert "only --run stands before" in capsys.readouterr().err


def test_words_for_a_shell():
    assert quoted("a=[1,2]") == "'a=[1,2]'"
    assert quoted("a='x y'") == "\"a='x y'\""
    assert quoted("a=1e-05") == "a=1e-05"
