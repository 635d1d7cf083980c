"""`scripts/replay_golden.py`: what it counts, what it does not, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from glmkd_nemo.replay import cli
from glmkd_nemo.replay.case import Case
from glmkd_nemo.replay.flags import NotYet, Setting, parse, translation_of
from glmkd_nemo.replay.flags.predictions import prediction_terms
from tests.launch import run_script

HERE = Path(__file__).resolve().parent
GOOD = HERE / "distill_pt" / "kd_readme_soft_hard_T10"
EXCLUDED = {  # cases that record a fault of the reference
    "kd_mse_mask_ignored_bug": "mask",
    "kd_readme_lossmask_3choices": "padded choices",
    "mixbaseline_readme": "twice",
    "theseus_iter0_seed1000": "student layer",
    "theseus_iter0_seed1001": "student layer",
    "trim_hidden_64to32": "query-key-value",
    "ckd_modern_torch_nan": "NaN",
}
UNKNOWN = "a_method_of_tomorrow"

pytestmark = pytest.mark.timeout(300)


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_script("replay_golden", *arguments)


def make_case(folder: Path, record: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    (folder / "case.json").write_text(json.dumps(record))
    return folder


def test_good_excluded_and_waiting_cases(tmp_path: Path):
    excluded = [make_case(tmp_path / "distill_pt" / name, {}) for name in EXCLUDED]
    waiting = copy_of_good_case(tmp_path)
    change(waiting, flags=[f"--student_model={UNKNOWN}"])
    done = replay(*excluded, waiting, GOOD)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    by_name = {line.split()[0]: line for line in lines}
    for name, reason in EXCLUDED.items():
        assert "excluded:" in by_name[f"distill_pt/{name}"]
        assert reason in by_name[f"distill_pt/{name}"]
    *_, first, second, total = lines
    assert f"waits: needs method {UNKNOWN}" in first
    assert second.split()[0] == f"distill_pt/{GOOD.name}"
    assert " ok" in second
    assert total == f"1 within 1e-5, 0 not, {len(EXCLUDED) + 1} not counted"


def copy_of_good_case(root: Path) -> Path:
    """The good case in a collection of its own, so that a number of it can be changed."""
    for name in ("models", "inputs", "logits"):
        (root / name).symlink_to(HERE / name)
    return Path(shutil.copytree(GOOD, root / "distill_pt" / GOOD.name))


def change(folder: Path, **values: object) -> None:
    """Changes entries of a case's record."""
    record = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps({**record, **values}))


def test_a_corrupted_number_fails(tmp_path: Path):
    folder = copy_of_good_case(tmp_path)
    change(folder, total_loss=str(float(Case(folder).record["total_loss"]) * 1.001))
    done = replay(folder)
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 within 1e-5, 1 not, 0 not counted"


def test_a_folder_that_is_no_case_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "distill_pt" / "nothing_here"
    folder.mkdir(parents=True)
    code = cli.replay([str(folder)], tp=1, pp=1, sp=False, recompute=None, verbose=False)
    assert code == 2
    assert "nothing_here is no case: it has no case.json" in capsys.readouterr().out
    with pytest.raises(ValueError, match="nothing_here is no case"):
        Case(folder).terms  # noqa: B018


def test_sequence_parallelism_needs_tensor_parallelism(capsys: pytest.CaptureFixture[str]):
    assert cli.replay([str(GOOD)], tp=1, pp=1, sp=True, recompute=None, verbose=False) == 2
    assert "--tp 2" in capsys.readouterr().out


def test_names_that_do_count_are_not_excluded():
    for name in ("theseus_iter0_seed1003", "tinybert_readme", "kd_soft_mse", "ckd_same_hidden"):
        assert Case(Path("distill_pt", name)).excluded is None


def test_flags_become_terms():
    flags = parse(["--student_model=kd", "--distill_pt_soft", "--distill_temperature=2"])
    assert flags == {"student_model": "kd", "distill_pt_soft": True, "distill_temperature": "2"}
    pretraining = Setting("pt", 2, (4,))
    term = prediction_terms(flags, pretraining)["soft"]
    assert (term["loss"], term["temperature"], term["mask"]) == ("kl", 2.0, "target")
    rates = {**flags, "distill_pt_hard": True, "distill_soft_rate": "0"}
    assert list(prediction_terms(rates, pretraining)) == ["hard"]  # a rate of 0 is no term
    with pytest.raises(NotYet, match=UNKNOWN):
        translation_of(UNKNOWN)


@pytest.mark.parametrize(("stage", "of"), [("ft_lm", None), ("ft_multi", "classes")])
def test_flags_of_fine_tuning(stage: str, of: str | None):
    flags = parse(["--distill_ft_soft", "--distill_ft_hard"])
    terms = prediction_terms(flags, Setting(stage, 2, (4,)))
    assert terms["soft"]["loss"] == "ce"
    assert [terms[name].get("of") for name in ("soft", "hard")] == [of, of]
