"""Every loss is a number."""

from unlearning.verification.gates import IntegrityGate

GATE = IntegrityGate(
    name="finite",
    question="Is every loss of the updated model a finite number?",
    holds=lambda subject: all(
        scores.finite for scores in subject.evidence.unlearned.sets().values()
    ),
    reason="every loss is a finite number",
    otherwise="some losses are not finite numbers; the weights are unusable",
)
