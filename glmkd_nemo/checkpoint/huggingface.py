"""GLM in the layout of Hugging Face: ``config.json`` and safetensors (or ``.bin``), both ways.

The names are those of ``GLMForConditionalGeneration`` as BAAI and THUDM published it (``glm.`` and
the original's name). It is code beside the weights: to use an export there, copy
``configuration_glm.py`` and ``modeling_glm.py`` of such a repository into the folder. (The class
``Glm`` inside the library ``transformers`` is another model.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glmkd_nemo.checkpoint.original_glm import our_name
from glmkd_nemo.checkpoint.pickles import Mapped
from glmkd_nemo.checkpoint.sharded import CheckpointDamaged
from glmkd_nemo.checkpoint.whole import Metas, Weights, meta

CONFIG, PREFIX = "config.json", "glm."
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_SIZES = {  # their key: ours
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "max_sequence_length": "max_position_embeddings",
    "attention_scale": "attention_scale",
}
_FIXED = {  # what makes a GLM, with the values that it must have
    "relative_encoding": False,
    "block_position_encoding": True,
    "output_predict": True,
    "spell_length": None,
}
_CLASSES = {
    "AutoConfig": "configuration_glm.GLMConfig",
    "AutoModel": "modeling_glm.GLMModel",
    "AutoModelForSeq2SeqLM": "modeling_glm.GLMForConditionalGeneration",
}
_UNKNOWN_THERE = ("embedding_size", "share_layers", "bottleneck_size", "vocab_map", "head")


def is_huggingface(source: Path) -> bool:
    """Whether it is a folder with a ``config.json``."""
    return (source / CONFIG).is_file()


def read_huggingface(source: Path) -> Weights:
    """Reads a folder.

    Raises:
        FileNotFoundError, CheckpointDamaged: a file is missing or cannot be read, by name.
        ValueError: no GLM, or sizes in ``config.json`` that the tensors have not.
    """
    config, listed = _config(source / CONFIG), _files(source)
    metas: Metas = {}
    where: dict[str, tuple[Path, str]] = {}
    files = sorted(set(listed.values()))
    bins = {file: Mapped(file) for file in files if file.suffix == ".bin"}
    for file in files:
        for name, shape in _shapes(file, bins.get(file)).items():
            original = _original(file, name)
            if original in where:
                there, twin = where[original]
                raise ValueError(f"{file} has {name!r}, and {there.name} has it as {twin!r}.")
            if file.name not in _SINGLE and listed.get(name) != file:
                raise ValueError(f"{file} has {name!r}, which the index does not say of it.")
            metas[original], where[original] = shape, (file, name)
    if missing := sorted(set(listed) - {name for _, name in where.values()} - set(_SINGLE)):
        raise CheckpointDamaged(f"{source}: {missing[0]} is in the index and in no file.")
    _check_rows(source / CONFIG, config, metas)
    return Weights(
        origin=f"Hugging Face layout in {source}",
        metas=metas,
        read=lambda name: _tensor(*where[name], bins.get(where[name][0])),
        model={ours: config[name] for name, ours in _SIZES.items() if name in config},
    )


def _original(file: Path, name: str) -> str:
    """The original's name; a ValueError names the file and what no GLM has."""
    original = name.removeprefix(PREFIX)
    try:
        our_name(original)
    except ValueError as error:
        raise ValueError(f"{file}: {error}.") from None
    return original


def _check_rows(path: Path, config: Mapping[str, Any], metas: Metas) -> None:
    words = metas.get("word_embeddings.weight")
    said = config.get("vocab_size")
    if words is not None and said is not None and said != words.shape[0]:
        raise ValueError(
            f"{path}: vocab_size = {said}, but the weights have {words.shape[0]} rows."
        )


def _config(path: Path) -> dict[str, Any]:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointDamaged(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointDamaged(
            f"{path} is a {type(config).__name__}, not a model's configuration."
        )
    if config.get("model_type") != "glm" or "num_layers" not in config:
        raise ValueError(
            f"{path} is of {config.get('architectures') or config.get('model_type')!r}, which is "
            "no GLM of BAAI's or THUDM's kind (model_type glm, with num_layers)."
        )
    for name, value in _FIXED.items():
        if name in config and config[name] != value:
            raise ValueError(f"{path}: {name} = {config[name]} is not supported, only {value}.")
    for name in _SIZES:
        value = config.get(name, 1)
        kind = int | float if name == "attention_scale" else int
        if isinstance(value, bool) or not isinstance(value, kind) or not value > 0:
            raise ValueError(f"{path}: {name} = {value!r} is no size.")
    return config


def _files(source: Path) -> dict[str, Path]:
    """The file of each name in an index; of the single file, the file of its own name."""
    for single in _SINGLE:
        index = source / f"{single}.index.json"
        if (source / single).is_file():
            return {single: source / single}
        if index.is_file():
            names = _weight_map(index)
            for file in sorted(set(names.values())):
                if not (source / file).is_file():
                    raise FileNotFoundError(
                        f"{source / file} is missing: {index.name} names it. Copy it too."
                    )
            return {name: source / file for name, file in names.items()}
    raise FileNotFoundError(f"{source} has neither {' nor '.join(_SINGLE)}.")


def _weight_map(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if all(isinstance(n, str) and Path(n).name == n for n in names.values()):
            return dict(names)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise CheckpointDamaged(f"{index} has no weight_map from names to files: copy it again.")


def _shapes(file: Path, mapped: Mapped | None) -> Metas:
    if mapped is not None:
        state = mapped.state
        if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
            raise ValueError(f"{file} is no mapping from names to weights: no file of a GLM.")
        return {str(name): meta(t.shape, t.dtype) for name, t in state.items()}
    try:
        with safe_open(file, "pt") as opened:
            return {name: _meta_of(opened, name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointDamaged(
            f"{file} is truncated or no safetensors ({error}): copy it again."
        ) from error


def _meta_of(opened: Any, name: str) -> Tensor:
    part = opened.get_slice(name)
    shape = part.get_shape()
    return meta(shape, part[:0].dtype if shape else opened.get_tensor(name).dtype)


def _tensor(file: Path, name: str, mapped: Mapped | None) -> Tensor:
    """Safetensors are opened for each tensor anew: so mapped pages leave this process."""
    if mapped is not None:
        found: Tensor = mapped.state[name]
        mapped.used(found.nbytes)
        return found
    with safe_open(file, "pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
        return tensor


def check_plain(model: Mapping[str, Any]) -> None:
    """Refuses a form of GLM that the published Hugging Face code does not have.

    Raises:
        ValueError: by name.
    """
    for name in _UNKNOWN_THERE:
        if model.get(name):
            raise ValueError(
                f"a GLM with {name} has no Hugging Face layout: the published modeling_glm.py "
                "cannot build it. Use format=nemo or format=original."
            )


def write_huggingface(
    weights: Weights, folder: Path, model: Mapping[str, Any], shard_size: str = "1GB"
) -> None:
    """Writes ``config.json`` and safetensors; one file is in memory at a time.

    Args:
        weights: of a plain GLM.
        folder: exists.
        model: its sizes, keys of the section ``model``.
        shard_size: of a file, e.g. ``500MB``.

    Raises:
        ValueError: the model is no plain GLM.
        OSError: the disk is full or not writable.
    """
    check_plain(model)
    config = {
        "model_type": "glm",
        "architectures": ["GLMForConditionalGeneration"],
        "auto_map": _CLASSES,
        "vocab_size": weights.metas["word_embeddings.weight"].shape[0],
        **{name: model[ours] for name, ours in _SIZES.items()},
        **_FIXED,
        "embedding_dropout_prob": model["hidden_dropout"],
        "attention_dropout_prob": model["attention_dropout"],
        "output_dropout_prob": model["hidden_dropout"],
        "checkpoint_activations": False,
        "checkpoint_num_layers": 1,
        "parallel_output": True,
        "torch_dtype": str(next(iter(weights.metas.values())).dtype).removeprefix("torch."),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_shards({PREFIX + n: t for n, t in weights.metas.items()}, folder, weights, shard_size)


def _write_shards(metas: Metas, folder: Path, weights: Weights, shard_size: str) -> None:
    plan = split_torch_state_dict_into_shards(metas, max_shard_size=shard_size)
    read: Callable[[str], Tensor] = weights.read
    for file, names in plan.filename_to_tensors.items():
        data = {name: read(name.removeprefix(PREFIX)).contiguous() for name in names}
        save_file(data, folder / file, metadata={"format": "pt"})
        del data
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        text = json.dumps(index, indent=2)
        (folder / f"{_SINGLE[0]}.index.json").write_text(text, encoding="utf-8")
