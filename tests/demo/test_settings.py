"""Settings of the demo: typed, strict, changed by key=value."""

import pytest

from glmkd_nemo.demo.settings import load_settings


def test_defaults_and_changes() -> None:
    settings = load_settings(["teacher.steps=7", "glmd.first=[3,4]", "student.lr=1e-4"])
    assert settings.teacher.steps == 7
    assert settings.glmd.first == [3, 4]
    assert settings.student.lr == 1e-4
    assert settings.corpus is None


def test_a_path_may_hold_any_character() -> None:
    assert load_settings(["corpus=/data/a=b [1], c.txt"]).corpus == "/data/a=b [1], c.txt"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("teacher.step=7", r"did you mean teacher\.steps="),
        ("temperature", "did you mean"),
        ("xyzzyq=1", "there are out, corpus"),
        ("teacher.steps=many", "could not be converted to Integer"),
        ("student.steps=100", "between 1 and 99"),
        ("glmd.second=[hard]", "may hold labels, soft"),
    ],
)
def test_bad_settings_are_named(change: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_settings([change])
