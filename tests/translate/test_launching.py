"""What stands around the program: launchers, variables, folders, comments, redirections."""

from __future__ import annotations

from pathlib import Path

import pytest

from glmkd_nemo.translate import Command, translate
from glmkd_nemo.translate.main import main

SIZES = "--block-lm --num-layers=6 --hidden-size=768 --num-attention-heads=12"
PRETRAIN = f"distill/pretrain.py {SIZES} --train-data data/x --train-iters 10"


def run_of(text: str) -> Command:
    return translate(text)[-1]


@pytest.mark.parametrize(
    ("before", "devices", "nodes"),
    [
        ("cd /GLM && deepspeed --include=localhost:0,1", 2, 1),
        ("cd /GLM; A=1 nohup deepspeed --num_gpus 4 --num_nodes 2", 4, 2),
        ("env CUDA_VISIBLE_DEVICES=3,5 /opt/bin/python3.9 -u -m deepspeed", 2, 1),
        ("python -m torch.distributed.launch --nproc_per_node=8", 8, 1),
        ("torchrun --nproc-per-node 4 --nnodes=2 --node-rank=0 --master_addr=a", 4, 2),
        ("CUDA_VISIBLE_DEVICES=0,1,2 torchrun --standalone --nproc_per_node=gpu", 3, 1),
        ("nohup python -u", 1, 1),
    ],
)
def test_launchers(before: str, devices: int, nodes: int):
    found = run_of(f"{before} {PRETRAIN}")
    wanted = {f"trainer.devices={devices}"} - {"trainer.devices=1"}
    wanted |= {f"trainer.num_nodes={nodes}"} - {"trainer.num_nodes=1"}
    said = {o for o in found.overrides if o.startswith(("trainer.devices", "trainer.num_nodes"))}
    assert said == wanted
    assert any("cd /GLM: paths" in note for note in found.notes) == before.startswith("cd")
    assert any("--node_rank" in note for note in found.notes) == ("--node-rank" in before)
    assert not any("in the launcher" in note for note in found.notes)
    assert found.environment.get("A") == ("1" if "A=1" in before else None)


def test_a_number_of_gpus_that_is_not_said_is_noted():
    found = run_of(f"torchrun --nproc_per_node=auto {PRETRAIN}")
    assert any("how many GPUs" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"srun -n 8 python {PRETRAIN}", "'srun' before the program is not understood"),
        (f"python -m accelerate {PRETRAIN}", "'accelerate' before the program"),
        (f"torchrun --nproc_per_nod=2 {PRETRAIN}", "did you mean --nproc_per_node"),
        (f"torchrun --nnodes=1:4 {PRETRAIN}", "--nnodes=1:4: the number of nodes is fixed"),
        (f"torchrun --nproc_per_node=x {PRETRAIN}", "--nproc_per_node=x: a number is expected"),
        (f"deepspeed --num_gpus=x {PRETRAIN}", "--num_gpus=x: a number is expected"),
        (f"{PRETRAIN} && {PRETRAIN}", "give one command at a time"),
        (f"{PRETRAIN} --seed=abc", "--seed=abc: a number is expected"),
        (f"{PRETRAIN} --seed=$N", r"--seed=\$N: write the value of the shell variable"),
        (f"{PRETRAIN} --save='a", "cannot be read as a shell reads it: No closing quotation"),
        (
            "auto_tune.py --tasks=rte --ds_optimizer__params__lr=a",
            "--ds_optimizer__params__lr=a: a number is expected",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        translate(text)


def test_a_comment_begins_at_a_word():
    text = f"# first\ndeepspeed --num_gpus=2 \\\n {PRETRAIN} --save=/data/run#1 --lr=5e-3 # '\n"
    found = run_of(text + "# ' last \\")
    assert "exp_manager.exp_dir='/data/run#1'" in found.overrides
    assert "model.optim.lr=0.005" in found.overrides
    quoted = run_of(f"{PRETRAIN} --save='a #b' --lr=5e-3")
    assert "exp_manager.exp_dir='a #b'" in quoted.overrides
    assert "model.optim.lr=0.005" in quoted.overrides


def test_a_redirection_is_told():
    plain = run_of(PRETRAIN)
    for end in ("> log 2>&1 &", "&>log", ">> a/log &"):
        found = run_of(f"nohup python {PRETRAIN} {end}")
        assert found.overrides == plain.overrides
        assert any("where the output" in note for note in found.notes)


def test_a_long_quoted_command(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main([f"{PRETRAIN} --save={'x' * 300}/y"]) == 0
    assert "x" * 300 in capsys.readouterr().out
    assert main([str(tmp_path / "no.sh")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_change_mp_tells_what_goes_over():
    (found,) = translate("cd /GLM && python change_mp.py some/folder 4")
    assert any("the weights go over" in note for note in found.notes)
    assert any("cd /GLM" in note for note in found.notes)
