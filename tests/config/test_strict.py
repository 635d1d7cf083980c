"""Wrong keys, wherever they come from, are named with the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from glmkd_nemo.config.overrides import check_overrides
from glmkd_nemo.config.run import CONF, open_sections, term_fields
from glmkd_nemo.config.schema import PretrainSchema
from glmkd_nemo.config.strict import ConfigError, check

MODELS = {
    "tiny4": (4, 312, 12),
    "tiny6": (6, 768, 12),
    "albert": (12, 768, 12),
    "mobilebert": (24, 512, 4),
    "ib_bert": (24, 512, 4),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "2b": (36, 2048, 32),
    "10b": (48, 4096, 64),
}


@pytest.fixture(scope="module")
def sections() -> dict[str, type]:
    """Schemas of NeMo's sections."""
    return open_sections()


def composed(*overrides: str) -> dict:
    """The shipped configuration with overrides, resolved."""
    import nemo.core.config  # noqa: F401  (its resolvers)

    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("pretrain", overrides=["model.tokenizer.path=v", *overrides])
    return OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_models_are_valid_and_of_the_references_sizes(name: str, sections: dict):
    cfg = composed(f"model={name}")
    check(cfg, PretrainSchema, sections, term_fields)
    model = cfg["model"]
    sizes = (model["num_layers"], model["hidden_size"], model["num_attention_heads"])
    assert sizes == MODELS[name]
    big = name in ("2b", "10b")
    assert model["tokenizer"]["type"] == ("gpt2" if big else "bert")
    assert model["max_position_embeddings"] == (1024 if big else 512)
    assert cfg["exp_manager"]["checkpoint_callback_params"]["model_parallel_size"] == 1


@pytest.mark.parametrize("folder", ["trainer", "data", "tokenizer", "method"])
def test_every_shipped_choice_is_valid(folder: str, sections: dict):
    choices = sorted(path.stem for path in (CONF / folder).glob("*.yaml"))
    assert choices
    for choice in choices:
        check(composed(f"{folder}={choice}"), PretrainSchema, sections, term_fields)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.hiden_size", 1, "unknown key model.hiden_size; did you mean model.hidden_size"),
        ("model.optim.sched.warmup_step", 1, "did you mean model.optim.sched.warmup_steps"),
        ("model.data.block_infilling.bert_prop", 1, "model.data.block_infilling.bert_prob"),
        ("model.tokenizer.pth", 1, "did you mean model.tokenizer.path"),
        ("trainer.max_stps", 1, "did you mean trainer.max_steps"),
        ("exp_manager.resume_if_exist", True, "did you mean exp_manager.resume_if_exists"),
        ("model.teachers.t0.restore_path", "x", "model.teachers.t0.restore_from_path"),
        ("model.distill.terms.a.method", "kdd", "no method is called 'kdd'.*'kd'"),
        ("model.distill.terms.a", {"method": "kd", "temprature": 2}, "temprature.*temperature"),
        ("model.distill.terms.a", {"weight": 2}, "names no method"),
        ("model.hidden_size", "large", "model.hidden_size='large' is of the wrong type"),
        ("model.optim", 3, "model.optim=3 must be a section"),
    ],
)
def test_a_wrong_key_in_a_file(key: str, value: object, words: str, sections: dict):
    cfg = OmegaConf.create(composed())
    OmegaConf.update(cfg, key, value, force_add=True)
    with pytest.raises(ConfigError, match=words):
        check(OmegaConf.to_container(cfg), PretrainSchema, sections, term_fields)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("model.hiden_size=1", "unknown key model.hiden_size; did you mean model.hidden_size"),
        ("+model.hiden_size=1", "did you mean model.hidden_size"),
        ("~model.hiden_size", "did you mean model.hidden_size"),
        ("modle=tiny4", "unknown key modle; did you mean model"),
        ("model=tiny5", "model=tiny5 is unknown; did you mean tiny.*there are: 10b, 2b, albert"),
        ("model.hidden_size.x=1", "model.hidden_size has no keys"),
        ("model.hidden_size", "is no key=value"),
        ("exp_manager.exp_dri=x", "did you mean exp_manager.exp_dir"),
    ],
)
def test_a_wrong_argument(argument: str, words: str, sections: dict):
    with pytest.raises(ConfigError, match=words):
        check_overrides([argument], PretrainSchema, CONF, sections)


def test_right_arguments_are_spelled_for_hydra(sections: dict):
    arguments = [
        "model=base",
        "model.hidden_size=64",
        "model.teachers.t0.restore_from_path=x.nemo",
        "model.distill.terms.a.temperature=2",
        "exp_manager.version=3",
        "+trainer.max_time=00:01:00:00",
        "~model.attention_scale",
        "hydra.verbose=true",
        "teacher='a b.nemo'",
    ]
    assert check_overrides(arguments, PretrainSchema, CONF, sections) == [
        "model=base",
        "++model.hidden_size=64",
        "++model.teachers.t0.restore_from_path=x.nemo",
        "++model.distill.terms.a.temperature=2",
        "++exp_manager.version=3",
        "++trainer.max_time=00:01:00:00",
        "~model.attention_scale",
        "hydra.verbose=true",
        "teacher=nemo",
        "++model.teachers.t0.restore_from_path='a b.nemo'",
    ]


def test_all_problems_come_at_once(sections: dict):
    with pytest.raises(ConfigError) as caught:
        check_overrides(["model.a=1", "trainer.b=2"], PretrainSchema, Path(CONF), sections)
    assert len(str(caught.value).splitlines()) == 2
