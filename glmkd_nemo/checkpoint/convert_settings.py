"""What ``scripts/convert_checkpoint.py`` takes: ``key=value``, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from glmkd_nemo.config.schema import ModelSection
from glmkd_nemo.config.strict import ConfigError, check

FORMATS = ("nemo", "sharded", "original", "huggingface")


@dataclass
class ConvertSettings:
    """All that ``scripts/convert_checkpoint.py`` takes.

    Attributes:
        source: what to read: a ``.nemo`` or a sharded folder; a folder with ``config.json``; or a
            checkpoint of the original GLM (its folder, that of a tag, or one of its files).
        target: what to write.
        format: nemo, sharded (a folder), original or huggingface; null: by the target's name.
        model_parallel_size: of ``format=original``.
        tag: which checkpoint of an original folder (null: the one that its tracker names).
        drop: patterns of entries of an original file to leave out, e.g. ``[student.*]``.
        replicas: ``first`` takes from the first shard what all should have alike, where shards
            have drifted apart.
        model: what the source does not tell: ``num_attention_heads`` and ``tokenizer`` above all.
        pool: position that the classifier of an original file reads: cls, start or pad.
        shard_size: of Hugging Face's files.
        verify: load both models and compare their logits.
        overwrite: replace an existing target.
    """

    source: str = ""
    target: str = ""
    format: str | None = None
    model_parallel_size: int = 1
    tag: str | None = None
    drop: list[str] = field(default_factory=list)
    replicas: str = "equal"
    model: ModelSection = field(default_factory=ModelSection)
    pool: str | None = None
    shard_size: str = "1GB"
    verify: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Request:
    """Checked settings; of the section ``model`` only what was given."""

    settings: ConvertSettings
    given: dict[str, Any]

    @property
    def source(self) -> Path:
        """What is read."""
        return Path(self.settings.source).expanduser()

    @property
    def target(self) -> Path:
        """What is written."""
        return Path(self.settings.target).expanduser()

    @property
    def format(self) -> str:
        """Of the target."""
        return self.settings.format or ("nemo" if self.target.suffix == ".nemo" else "")


def load_request(arguments: list[str]) -> Request:
    """Settings of a command line of ``key=value``.

    Raises:
        ValueError: a key or a value that cannot be, by name.
    """
    arguments = ["verify=true" if a == "--verify" else a for a in arguments]
    if wrong := [a for a in arguments if "=" not in a]:
        raise ConfigError(f"{wrong[0]} is no key=value, e.g. source=glm-large target=large.nemo")
    try:
        given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(arguments))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error
    if "model" in given and not isinstance(given["model"], dict):
        raise ConfigError(f"model={given['model']!r}: give its keys, e.g. model.num_layers=24")
    check(given, ConvertSettings)
    model = given.pop("model", {})
    merged = OmegaConf.merge(OmegaConf.structured(ConvertSettings), given)
    settings = OmegaConf.to_object(merged)
    assert isinstance(settings, ConvertSettings)
    request = Request(settings, model)
    if not settings.source or not settings.target:
        raise ConfigError("give source=... and target=... (scripts/convert_checkpoint.py --help)")
    if request.format not in FORMATS:
        raise ConfigError(f"format={settings.format}: give one of {', '.join(FORMATS)}")
    if settings.model_parallel_size < 1:
        raise ConfigError("model_parallel_size must be at least 1")
    if settings.replicas not in ("equal", "first"):
        raise ConfigError(f"replicas={settings.replicas}: equal or first")
    return request
