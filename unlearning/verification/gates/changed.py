"""The weights changed."""

from unlearning.verification.gates import IntegrityGate

GATE = IntegrityGate(
    name="changed",
    question="Do the weights differ from the base version's?",
    holds=lambda subject: subject.changed,
    reason="the weights differ from the base version's",
    otherwise="the weights did not change, so nothing was removed",
)
