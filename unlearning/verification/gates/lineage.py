"""Nothing that the version was made from holds records forgotten before."""

from unlearning.verification.gates import IntegrityGate

GATE = IntegrityGate(
    name="lineage",
    question="Are the version's parents and training rows without records forgotten before?",
    holds=lambda subject: subject.lineage_clean,
    reason="no parent or training row of this version holds records already forgotten",
    otherwise="a parent or a training row of this version still holds forgotten records;"
    " start again from a version without them",
)
