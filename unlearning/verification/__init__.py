"""Verify that rows were removed and the model still works, and whether the rows suffice to tell.

A worker scores models on rows, stores the scores, and asks for a verdict::

    from unlearning import verification

    control = verification.ModelScores(          # cached with the base version, except forget
        forget=verification.score(base, forget, rows=row_numbers),
        audit=verification.score(base, audit),
        retain=verification.score(base, retain_sample),
        calibration=verification.score(base, validation),
    )
    found = verification.verify(
        unlearned, control,                      # the same rows under both models
        changed=digest != base_digest,
        lineage_clean=True,
        criteria=verification.parse_criteria({...}),  # a policy's gates
        kind="records",                          # or "class"
        references=(),                           # scores of retrained models, if any
        earlier=stored,                          # Evidence of earlier promoted batches
        exact=False,                             # True for a retrain on the retained rows
        outside=verification.Outside(...),       # margins under models without the rows, if known
        drift=verification.Drift(...),
    )
    found.verdict                                # "passed" | "failed" | "no_power"
    found.to_json()                              # plain JSON, no NaN

``ModelScores.to_arrays()`` gives plain arrays (``forget.loss``, ``audit.correct``, ...) to store
with each batch, ``ModelScores.from_arrays`` reads them; ``Evidence(unlearned, control)`` of earlier
batches goes into ``earlier``, newest first, with the verification's ``chain``. Give ``forget`` only
rows that were trained on: a forgotten record of the validation or audit split was never learned.
Take forgotten records out of every other set.
"""

from unlearning.verification.audit import verify
from unlearning.verification.comparison import compare, loses_accuracy
from unlearning.verification.criteria import Criteria
from unlearning.verification.disclosure import Disclosure
from unlearning.verification.drift import Drift, relative_distance
from unlearning.verification.limits import parse as parse_criteria
from unlearning.verification.measures import Metric
from unlearning.verification.report import Verification
from unlearning.verification.statistics.matching import Evidence
from unlearning.verification.statistics.outside import Outside
from unlearning.verification.statistics.scores import ModelScores, Scores, score
from unlearning.verification.verdict import Outcome, Verdict

__all__ = [
    "Criteria",
    "Disclosure",
    "Drift",
    "Evidence",
    "Metric",
    "ModelScores",
    "Outcome",
    "Outside",
    "Scores",
    "Verdict",
    "Verification",
    "compare",
    "loses_accuracy",
    "parse_criteria",
    "relative_distance",
    "score",
    "verify",
]
