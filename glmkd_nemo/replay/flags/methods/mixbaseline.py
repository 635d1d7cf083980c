"""``--student_model=mixbaseline``: terms of several methods beside each other.

Recorded cases do not count (the reference lets DistilBERT see TinyBERT's projected output); ours
is the plain sum of the terms, each once.
"""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Setting, Terms, Translation, translation_of
from glmkd_nemo.replay.flags.predictions import prediction_terms

LABELS = ("soft", "hard", "logits")


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    """Raises ``ValueError`` for options on labels that the reference accepts and ignores."""
    stage = "pt" if setting.stage == "pt" else "ft"
    labels = _names(flags, f"mixbaseline_pre_bl_{stage}_soft")
    # the common labels take part in fine-tuning by themselves, else through the methods named;
    # hard labels count once, with the last of these; DistilBERT has labels of its own
    used = {
        "logits": True,
        "soft": stage == "ft" or set(labels) - {"distilbert"},
        "hard": labels[-1] != "distilbert" if labels else stage == "ft",
    }
    for name in predictions:
        if not used[name]:
            raise ValueError(
                f"--distill_{stage}_{name} has no effect with --student_model=mixbaseline and "
                f"--mixbaseline_pre_bl_{stage}_soft={','.join(labels)}: leave it out, or name "
                "TinyBERT there."
            )
    terms = {n: t for n, t in predictions.items() if n != "soft" or stage == "ft"}
    for name in labels:
        terms.update(_labels_of(name, flags, setting))
    if "mixbaseline_wo_inter" not in flags:
        for name in _names(flags, "mixbaseline_inter_bl"):
            terms.update(_inner(translation_of(name).terms(flags, setting, {})))
    return terms


def _names(flags: Flags, option: str) -> list[str]:
    """``"TinyBERT,MiniLM" -> ["tinybert", "minilm"]``."""
    return [name.lower() for name in str(flags.get(option, "")).split(",") if name]


def _labels_of(name: str, flags: Flags, setting: Setting) -> Terms:
    """Label terms of one method: DistilBERT has its own, the others share the common ones."""
    if name == "distilbert":
        found = translation_of(name).terms(flags, setting, {})
        return {f"{name}_{key}": term for key, term in found.items() if key in LABELS}
    own = flags.get(f"mixbaseline_{name}_t", 1 if name == "tinybert" else None)
    common = flags if own is None else {**flags, "distill_temperature": own}
    soft = prediction_terms(common, setting).get("soft")
    return {} if soft is None else {f"{name}_soft": soft}


def _inner(terms: Terms) -> Terms:
    return {name: term for name, term in terms.items() if name not in LABELS}


TRANSLATION = Translation(
    _terms,
    parameters={r"TinyBERT\.(fit_dense\.\w+)": r"tinybert.\1"},
)
