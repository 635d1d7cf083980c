"""Indexed corpora: content, order, malformed rows, atomic output, the command line."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from glmkd_nemo.data.indexed import IndexedCorpus
from glmkd_nemo.data.preprocess import preprocess
from glmkd_nemo.data.tokenizer import GLMTokenizer

from .conftest import write_jsonl

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "preprocess_data.py"


def content(prefix: Path) -> tuple[bytes, bytes]:
    return tuple(prefix.with_name(prefix.name + s).read_bytes() for s in (".bin", ".idx"))  # type: ignore[return-value]


def test_documents_read_back(prefix: Path, tokenizer: GLMTokenizer, texts: list[str]) -> None:
    corpus = IndexedCorpus(prefix, tokenizer)
    assert len(corpus.lengths) == len(texts)
    for i in (0, 7, len(texts) - 1):
        ids = tokenizer.encode(texts[i])
        assert corpus.lengths[i] == len(ids)
        assert corpus.read(i, 0, len(ids)).tolist() == ids
        assert corpus.read(i, 3, 9).tolist() == ids[3:9]
        assert corpus.read(i, len(ids) - 2, len(ids) + 5).tolist() == ids[-2:]
    assert corpus.read(0, 5, 5).size == 0


def test_documents_of_several_sequences(tmp_path: Path, tokenizer: GLMTokenizer) -> None:
    """As other Megatron tools write them with sentence splitting; without a sidecar."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "c.bin"), dtype=np.uint16)
    builder.add_document(list(range(10, 20)), [4, 6])
    builder.add_document(list(range(30, 35)), [5])
    builder.finalize(str(tmp_path / "c.idx"))
    corpus = IndexedCorpus(tmp_path / "c", tokenizer)
    assert corpus.lengths.tolist() == [10, 5]
    assert corpus.read(0, 2, 7).tolist() == [12, 13, 14, 15, 16]
    assert corpus.read(0, 5, 99).tolist() == list(range(15, 20))
    assert corpus.read(1, 0, 5).tolist() == list(range(30, 35))


def test_sidecar(prefix: Path, tokenizer: GLMTokenizer, texts: list[str]) -> None:
    sidecar = json.loads(prefix.with_name(prefix.name + ".json").read_text())
    assert sidecar["documents"] == len(texts)
    assert sidecar["tokens"] == sum(len(tokenizer.encode(t)) for t in texts)
    assert sidecar["tokenizer_fingerprint"] == tokenizer.text_fingerprint()
    assert sidecar["bin_bytes"] == prefix.with_name(prefix.name + ".bin").stat().st_size


def test_workers_do_not_change_the_corpus(
    tmp_path: Path, tokenizer: GLMTokenizer, texts: list[str], prefix: Path
) -> None:
    source = write_jsonl(tmp_path / "texts.jsonl", texts)
    preprocess([source], tmp_path / "two", tokenizer, workers=2, progress=False)
    assert content(tmp_path / "two") == content(prefix)


def test_malformed_rows_are_named_and_counted(
    tmp_path: Path, tokenizer: GLMTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "one two"}\nbroken\n{"text": ""}\n{"text": "three"}\n')
    summary = preprocess([source], tmp_path / "a", tokenizer, progress=False)
    assert (summary.documents, summary.bad_rows) == (2, 2)
    err = capsys.readouterr().err
    assert f"{source}:2: not JSON" in err
    assert f"{source}:3: empty text" in err
    listed = (tmp_path / "a.bad_rows.txt").read_text().splitlines()
    assert [row.split(": ")[0] for row in listed] == [f"{source}:2", f"{source}:3"]
    with pytest.raises(ValueError, match=r"more than 1 malformed rows[\s\S]*a\.jsonl:2"):
        preprocess([source], tmp_path / "b", tokenizer, max_bad_rows=1, progress=False)
    assert not list(tmp_path.glob("b*")), "nothing is left of a refused run"


def test_nothing_is_left_of_a_broken_run(
    tmp_path: Path, tokenizer: GLMTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["one", "two"])
    calls = []

    def interrupted(self: GLMTokenizer, text: str) -> list[int]:
        calls.append(text)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [5, 6]

    monkeypatch.setattr(GLMTokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preprocess([source], tmp_path / "out", tokenizer, progress=False)
    assert not list(tmp_path.glob("out*"))


def test_refused_input_and_output(tmp_path: Path, tokenizer: GLMTokenizer) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["one two"])
    with pytest.raises(FileNotFoundError, match=r"no\.txt does not exist"):
        preprocess([source, tmp_path / "no.txt"], tmp_path / "x", tokenizer)
    with pytest.raises(ValueError, match="no input files"):
        preprocess([], tmp_path / "x", tokenizer)
    with pytest.raises(ValueError, match="cannot write the corpus"):
        preprocess([source], source / "below" / "x", tokenizer)
    (tmp_path / "bad.jsonl").write_text("{}\n[]\n")
    with pytest.raises(ValueError, match=r"no document in .*bad\.jsonl \(2 malformed rows\)"):
        preprocess([tmp_path / "bad.jsonl"], tmp_path / "x", tokenizer, progress=False)
    assert not list(tmp_path.glob("x*"))
    preprocess([source], tmp_path / "x", tokenizer, progress=False)
    with pytest.raises(ValueError, match="exists; choose another prefix or pass overwrite"):
        preprocess([source], tmp_path / "x", tokenizer, progress=False)
    preprocess([source], tmp_path / "x", tokenizer, progress=False, overwrite=True)


def run_script(*arguments: str) -> int:
    before = sys.argv
    sys.argv = [str(SCRIPT), *arguments]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return -1


def test_command_line(
    tmp_path: Path, vocab_dir: Path, tokenizer: GLMTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("first document\n\nsecond document\n")
    out = tmp_path / "corpus" / "a"
    arguments = ["--input", str(tmp_path / "a.txt"), "--output", str(out)]
    arguments += ["--tokenizer-path", str(vocab_dir), "--quiet"]
    assert run_script(*arguments) == 0
    assert "2 documents" in capsys.readouterr().out
    assert len(IndexedCorpus(out, tokenizer).lengths) == 2
    assert run_script(*arguments) == 1
    assert "error: corpus" in capsys.readouterr().err
