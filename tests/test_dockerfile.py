"""The image without an engine to build it: structure, hadolint's rules that apply, and its code.

(hadolint's numbers stand beside the checks: https://github.com/hadolint/hadolint/wiki.)
"""

import fnmatch
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Instruction(NamedTuple):
    """One instruction: its stage (-1 before the first), name, words, and the code in it."""

    stage: int
    name: str
    text: str
    code: str


def instructions() -> list[Instruction]:
    lines = iter((ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines())
    found: list[Instruction] = []
    stage = -1
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        text, code = line, ""
        while text.endswith("\\"):
            text = text[:-1] + next(lines).strip()
        if heredoc := re.search(r"<<'(\w+)'", text):
            while (row := next(lines)) != heredoc.group(1):
                code += row + "\n"
        name, _, rest = text.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, rest.strip(), code))
    return found


ALL = instructions()


def of(name: str) -> list[Instruction]:
    return [one for one in ALL if one.name == name]


def test_the_base_is_pinned_and_the_same_in_both_stages() -> None:
    base = next(one.text for one in of("ARG") if one.text.startswith("BASE="))
    assert re.fullmatch(r"BASE=nvcr\.io/nvidia/pytorch:\d\d\.\d\d-py3(@sha256:\w{64})?", base)
    stages = [one.text.split() for one in of("FROM")]  # DL3006, DL3007, DL3029: no --platform
    assert [words[0] for words in stages] == ["${BASE}", "${BASE}"]
    names = [words[2] for words in stages]
    assert names == ["builder", "runtime"]  # DL3024: unique
    sources = {m for one in of("COPY") for m in re.findall(r"--from=(\S+)", one.text)}
    assert sources == {"builder"}  # DL3022


def test_it_runs_as_an_ordinary_user() -> None:
    assert of("USER")[-1].text == "glm"  # DL3002
    assert ALL.index(of("USER")[-1]) > max(ALL.index(one) for one in of("COPY") + of("RUN"))
    added = next(one.text for one in of("RUN") if "useradd" in one.text)
    assert "--no-log-init" in added  # DL3046
    assert "--non-unique" in added  # Ubuntu's images have a user 1000, who most often asks for UID
    assert int(next(one.text for one in of("ARG") if one.text.startswith("UID="))[4:]) > 1000


def test_commands_obey_hadolint() -> None:
    assert not of("ADD") + of("MAINTAINER") + of("ONBUILD")  # DL3020, DL4000, DL3043
    assert not of("HEALTHCHECK")  # training serves nobody
    assert len(of("CMD")) == len(of("ENTRYPOINT")) == 1  # DL4003, DL4004
    for one in of("CMD") + of("ENTRYPOINT"):
        assert isinstance(json.loads(one.text), list)  # DL3025
    assert all(one.text.startswith("/") for one in of("WORKDIR"))  # DL3000
    for one in of("RUN"):
        words = re.split(r"[\s;&]+", one.text)
        assert not {"sudo", "cd", "apt", "apt-get", "wget", "curl"} & set(words)  # DL3003-4, 3008
        assert "|" not in one.text  # DL4006: no pipe whose failure is lost
    for before, after in itertools.pairwise(ALL):
        assert (before.name, after.name) != ("RUN", "RUN")  # DL3059


def test_what_pip_installs_is_constrained_and_leaves_no_cache() -> None:
    installs = [one for one in of("RUN") if "pip install" in one.text]
    for one in installs:
        assert "-c constraints.image.txt" in one.text  # DL3013
        env = " ".join(e.text for e in of("ENV") if e.stage == one.stage)
        assert "PIP_NO_CACHE_DIR=1" in env  # DL3042
    assert len(installs) == 1


def test_deepspeed_is_installed_at_the_tested_version() -> None:
    extras = next(one.text[7:] for one in of("ARG") if one.text.startswith("EXTRAS="))
    assert "deepspeed" in extras.split(",")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^deepspeed==\d", constraints, re.M)


def test_relative_copies_come_after_a_workdir() -> None:
    for one in of("COPY"):  # DL3045
        earlier = [i for i in ALL[: ALL.index(one)] if i.stage == one.stage]
        assert one.text.split()[-1].startswith("/") or any(i.name == "WORKDIR" for i in earlier)
        if len(one.text.split()) > 2 and "--" not in one.text:
            assert one.text.endswith("/")  # DL3021


def test_files_copied_are_there_and_reach_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    for one in of("COPY"):
        if "--from" in one.text:
            continue
        for source in one.text.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source in let_in, f"{source} is kept out by .dockerignore"
    assert any(fnmatch.fnmatch("tests/x/__pycache__", line) for line in ignored)


def test_build_arguments_are_documented() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    head = text[: text.index("\nARG ")]
    for one in of("ARG"):
        assert re.search(rf"^#   {one.text.split('=')[0]} ", head, re.M), one.text


def test_the_example_can_write_to_the_folder_that_it_mounts() -> None:
    head = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("\nARG ")[0]
    assert '-v "$PWD:/workspace"' in head
    assert "docker build --build-arg UID=$(id -u) -t" in head


def run(code: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-"]
    together = {**os.environ, **env}
    return subprocess.run(
        command, input=code, cwd=folder, env=together, capture_output=True, text=True, check=False
    )


@pytest.fixture
def snippets() -> list[str]:
    return [one.code for one in of("RUN") if one.code]


def test_the_constraints_of_the_image_are_ours_but_for_torch_and_numpy(
    snippets: list[str], tmp_path: Path
) -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (tmp_path / "constraints.txt").write_text(text.replace("torch==", "torch==0.0."))
    done = run(snippets[0], tmp_path)
    assert done.returncode == 0, done.stderr
    pins = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line)
    assert not pins["torch"].startswith("0.0.")
    assert pins["megatron-core"] == dict(re.findall(r"^(\S+)==(\S+)", text, re.M))["megatron-core"]


def test_a_base_without_what_is_promised_stops_the_build(
    snippets: list[str], tmp_path: Path
) -> None:
    assert run(snippets[1], tmp_path, REQUIRED="json torch").returncode == 0
    done = run(snippets[1], tmp_path, REQUIRED="json no_such_module")
    assert done.returncode == 1
    assert "not in this image: no_such_module" in done.stderr
