"""``--student_model=tinybert``."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    if "tinybert_wo_inter" in flags:
        return predictions
    layers = "all"
    for flag, value in (
        ("tinybert_only_emb", "embedding"),
        ("tinybert_inter_final", "final"),
        ("tinybert_only_emb_final", "embedding_final"),
    ):
        layers = value if flag in flags else layers
    tinybert = {
        "method": "tinybert",
        "attention": "tinybert_wo_att" not in flags,
        "embedding": "tinybert_wo_emb" not in flags,
        "final": "tinybert_wo_final" not in flags,
        "layers": layers,
        "custom_final": int(flags.get("tinybert_custom_final", 1)),
        "random_layers": "tinybert_random_layers" in flags,
        "random_every_epochs": int(flags.get("tinybert_random_e", 1)),
        "random_every_steps": int(flags.get("tinybert_random_i", 3000)),
    }
    return {**predictions, "tinybert": tinybert}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/((?:attention_scores|hidden_states)\.\d+)": Logged(r"tinybert/\1")},
    parameters={
        r"(fit_dense\.\w+)": r"tinybert.\1",
        r"fit_dense_(\d+)\.(\w+)": r"tinybert@t\1.fit_dense.\2",
    },
)
