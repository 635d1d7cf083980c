"""``--student_model=pkd``: alpha mixes soft and hard labels, beta weighs the hidden states."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _alpha(flags: Flags) -> float:
    return float(flags.get("pkd_alpha", 0.5))


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    alpha, beta = _alpha(flags), float(flags.get("pkd_beta", 100))
    mixed = {"soft": alpha, "hard": 1 - alpha}
    terms = {
        name: {**term, "weight": term.get("weight", 1.0) * mixed.get(name, 1.0)}
        for name, term in predictions.items()
    }
    terms["pkd"] = {
        "method": "pkd",
        "weight": beta,
        "normalize": "pkd_normalized_patience" in flags,
        "only_cls": "pkd_only_cls" in flags,
        "embedding": "pkd_use_embed" in flags,
        "final": "pkd_wo_final" not in flags,
    }
    return {name: term for name, term in terms.items() if term["weight"] != 0.0}


TRANSLATION = Translation(
    _terms,
    parts={  # logged before alpha and beta
        r"pre_loss/[pf]t_soft": Logged("soft/soft", without=_alpha),
        r"pre_loss/[pf]t_hard": Logged("hard/hard", without=lambda flags: 1 - _alpha(flags)),
        r"inter_loss/(hidden_states\.\d+)": Logged(r"pkd/\1", weighted=False),
    },
)
