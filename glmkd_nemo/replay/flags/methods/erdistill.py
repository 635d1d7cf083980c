"""``--student_model=erdistill``; its options are attributes of the reference, not of its parser."""

from __future__ import annotations

from glmkd_nemo.replay.flags import Flags, Logged, Setting, Terms, Translation


def _terms(flags: Flags, setting: Setting, predictions: Terms) -> Terms:
    layers = flags.get("erdistill_inter")
    local, total = "erdistill_wo_local" not in flags, "erdistill_wo_global" not in flags
    if not layers or not (local or total):
        return predictions
    erdistill = {
        "method": "erdistill",
        "loss": "mse" if "erdistill_inter_mse" in flags else "kl",
        "layers": layers,
        "local_relations": local,
        "global_relations": total,
    }
    return {**predictions, "erdistill": erdistill}


TRANSLATION = Translation(
    _terms,
    parts={r"inter_loss/((?:local|global)\.\d+)": Logged(r"erdistill/\1", weighted=False)},
)
