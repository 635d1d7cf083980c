"""generate_samples.py and vocab_sort.py of the original."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from glmkd_nemo.generation.config import GenerationConfig
from glmkd_nemo.translate import translate
from tests.translate.strict import load

ROOT = Path(__file__).resolve().parents[2]
TEXT = (
    "python generate_samples.py --block-lm --num-layers=6 --num-attention-heads=12 --fp16 "
    "--tokenizer-model-type=bert-base-uncased --load-pretrained=a/b --out-seq-length=99"
)


def test_generation_by_drawing():
    conversion, run = translate(f"{TEXT} --top_k=40 --temperature=0.9 --seq-length=512 --seed=1")
    assert (conversion.script, run.script) == ("convert_checkpoint", "generate")
    (cfg,) = load(run)
    assert cfg["restore_from_path"] == "a/b.nemo"
    assert cfg["trainer"]["precision"] == 16
    wanted = GenerationConfig(99, do_sample=True, top_k=40, temperature=0.9, seed=1)
    assert GenerationConfig(**cfg["generation"]) == wanted
    assert "--seq-length: no effect: not used in generation" in run.notes


def test_generation_by_beams():
    run = translate(f"{TEXT} --num-beams=4 --length-penalty=0.7 --temperature=2")[-1]
    (cfg,) = load(run)
    assert GenerationConfig(**cfg["generation"]) == GenerationConfig(
        99, num_beams=4, length_penalty=0.7
    )
    assert "--temperature: no effect: not used in generation" in run.notes
    with pytest.raises(ValueError, match="--load-pretrained: say which weights"):
        translate("generate_samples.py --block-lm")


def test_a_sorted_vocabulary():
    (found,) = translate("python distill/vocab_sort.py --lr=1")
    spec = importlib.util.spec_from_file_location("sorting", ROOT / "scripts/sort_vocab.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    read = script.parse(list(found.overrides))
    assert read.output == ".pytorch_pretrained_bert/BertWordPieceTokenizer_bert-base-uncased.txt"
    assert (read.tokenizer, read.tokenizer_path) == ("bert", "bert-base-uncased")
    assert any("options of vocab_sort.py: no effect" in note for note in found.notes)
