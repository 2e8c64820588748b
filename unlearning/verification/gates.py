"""The limits of a policy: what an unlearned version must show before it may be promoted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Share = Annotated[float, Ge(0), Le(1)]
Confidence = Annotated[float, Ge(0.5), Lt(1)]


@dataclass(frozen=True)
class Gates:
    """Limits as shares (0.01 is one percentage point) and the confidence they are judged with."""

    #: Largest loss of accuracy on never-seen rows against the base version.
    audit_accuracy_drop: Share = 0.01
    #: Largest loss of accuracy on never-seen rows against the anchor, over all batches since.
    audit_accuracy_drop_since_anchor: Share = 0.03
    #: Largest loss of accuracy on retained rows against the base version.
    retain_accuracy_drop: Share = 0.02
    #: Largest distance of the membership AUC from .5.
    membership_auc: Share = 0.03
    #: Largest distance of the membership AUC from the references', where there are references.
    membership_auc_to_reference: Share = 0.015
    #: Largest distance of forget accuracy from that on never-seen rows of the same classes.
    forget_accuracy: Share = 0.03
    #: Largest true positive rate of the membership attack at 1 % false positives.
    true_positive_rate: Share = 0.025
    #: Largest accuracy on a forgotten class.
    class_accuracy: Share = 0.03
    #: What must be shown to be gone of the base version's excess where rows are too few to show
    #: that the limit itself is kept.
    removed: Annotated[float, Gt(0), Lt(1)] = 0.5
    #: Removal is judged on no fewer forgotten rows: below, the intervals are not to be trusted.
    least_rows: Annotated[int, Ge(10)] = 30
    #: Smaller batches are judged together with the earlier ones of the same anchor.
    pool_below_rows: Annotated[int, Ge(0)] = 100
    #: Confidence of every interval.
    confidence: Confidence = 0.95
    #: Confidence with which a model must miss its target before anything is concluded from it:
    #: the base version, for a gate to have power, and the updated one, to fail for that alone.
    miss_confidence: Confidence = 0.99
    #: Share of the anchor's rows forgotten since, above which a retrain is advised.
    forgotten_share: Share = 0.10
    #: Share of one class forgotten since the anchor, above which a retrain is advised.
    forgotten_class_share: Share = 0.25
    #: Relative rise of the validation loss against the anchor above which a retrain is advised.
    validation_loss_rise: Annotated[float, Ge(0)] = 0.05
    #: Relearn time is measured up to this many steps, and reported; 0: not at all, as it is slow.
    relearn_steps: Annotated[int, Ge(0), Le(10_000)] = 0
