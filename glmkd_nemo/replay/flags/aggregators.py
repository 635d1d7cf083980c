"""Options on several teachers as ``distill.aggregator`` and the terms that go with it."""

from __future__ import annotations

from typing import Any

from glmkd_nemo.replay.flags import Flags, Logged, NotYet, Setting, Terms

Aggregation = tuple[Terms, dict[str, Any]]
MEANS = ("", "avg", "tmkd", "AvgTeacher")

PARTS = {
    r"multi_teacher_model/rl_loss": Logged("aggregator/policy", weighted=False),
    r"multi_teacher_model/hard_loss": Logged("hard/hard"),
}
PARAMETERS = {
    r"multi_teacher_model\.agent_semantic_mt_loss\.(\w+)": r"aggregator.agent.semantic_mt_loss.\1",
    r"multi_teacher_model\.agent_mt_soft\.(\w+)": r"aggregator.agent.mt_soft.\1",
    r"multi_teacher_model\.fit_dense_(\d+)\.(\w+)": r"methods.pkd@t\1.fit_dense.\2",
    r"multi_teacher_model\.layernorm\.(\w+)": r"methods.pkd@t0.layernorm.\1",
    r"multi_teacher_model\.t_layernorm_(\d+)\.(\w+)": r"methods.pkd@t\1.t_layernorm.\2",
}


def aggregation(flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    """Terms and ``distill.aggregator`` for several teachers.

    Args:
        flags: the reference's options.
        setting: stage and sizes.
        terms: what the options ask for with one teacher.

    Raises:
        NotYet: an unknown way to combine teachers.
    """
    name = str(flags.get("multi_teacher_model") or "")
    if name == "mixmt":
        members = [_one(member, flags, setting, terms) for member in _members(flags)]
        merged = {key: value for found, _ in members for key, value in found.items()}
        return merged, {"name": "mixture", "members": [config for _, config in members]}
    return _one(name, flags, setting, terms)


def _members(flags: Flags) -> list[str]:
    return sorted(set(str(flags["mixmt_model"]).split(",")))


def _one(name: str, flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    if name in MEANS:
        return _mean(flags, setting, terms)
    if name in ("mt_bert", "MT_BERT"):
        return _mt_bert(flags, setting, terms)
    if name in ("uncertainty", "Uncertainty"):
        return _uncertainty(flags, setting, terms)
    if name in ("rl_kd", "RL_KD"):
        return _rl_kd(flags, setting, terms)
    raise NotYet(f"several teachers combined by {name}")


def _hard(setting: Setting, weight: float) -> Terms:
    return {"hard": {"method": "hard", "weight": weight, **_of(setting)}} if weight else {}


def _of(setting: Setting) -> dict[str, str]:
    return {"of": "classes" if setting.stage in ("ft_multi", "ft_single") else "tokens"}


def _mean(flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    survival = float(flags.get("avgmt_teacher_survival_p", 1))
    own = _hard(setting, float(flags.get("distill_hard_rate", 1))) if survival < 1 else {}
    config = {
        "name": "mean",
        "survival": survival,
        "sum": "avgmt_sum_loss" in flags,
        "hard": "hard" in terms or bool(own),
    }
    return {**terms, **own}, config


def _mt_bert(flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    fitted = "none" if "mt_bert_wo_convert_layer" in flags else "student"
    if "mt_bert_fit_teacher" in flags and fitted != "none":
        fitted = "teacher"
    aligned = {"project": fitted, "fix_layernorm": "mt_bert_fix_layernorm" in flags}
    terms = {n: {**t, **(aligned if t["method"] == "pkd" else {})} for n, t in terms.items()}
    own = {} if "mt_bert_wo_hard" in flags else _hard(setting, 1.0)
    return {**terms, **own}, {"name": "mt_bert", **_of(setting)}


def _uncertainty(flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    order = flags.get("uncertainty_teacher_seq")
    mask = "pad_labels" if "uncertainty_only_mask_pad" in flags else "target"
    config = {
        "name": "uncertainty",
        "hard": "uncertainty_hard" in flags,
        "select": "uncertainty_wo_rate" not in flags,
        "order": None if not order else [int(i) for i in str(order).split(":")],
        "inter_entropy": "uncertainty_inter_entropy" in flags,
        "mask": "none" if "uncertainty_wo_loss_mask" in flags else mask,
        **_of(setting),
    }
    rate = float(flags.get("distill_hard_rate", 1))
    own = {} if "uncertainty_wo_hard" in flags else _hard(setting, rate)
    return {**terms, **own}, config


def _rl_kd(flags: Flags, setting: Setting, terms: Terms) -> Aggregation:
    semantic = flags.get("rl_kd_semantic_model")
    width = flags.get("rl_kd_semantic_model_dim")
    mask = "pad_labels" if "rl_kd_only_mask_pad" in flags else "target"
    config = {
        "name": "rl_kd",
        "phase": "average" if "rl_kd_only_avg" in flags else "rl",
        "alpha": float(flags.get("rl_kd_alpha", 0.5)),
        "reward": int(flags.get("rl_kd_reward", 1)),
        "semantic_teacher": None if semantic is None else int(semantic),
        "semantic_size": None if width is None else int(width),
        "classes": setting.classes,
        "sequences": setting.classes if setting.stage == "ft_multi" else 1,
        "mask": "none" if "rl_kd_wo_loss_mask" in flags else mask,
        **_of(setting),
    }
    own = {} if "rl_kd_wo_hard" in flags else _hard(setting, 1.0)
    return {**terms, **own}, config
