"""The update proved that its weights are those of a fit on the retained rows."""

from unlearning.heads import certificate
from unlearning.verification.gates import Need, ProofGate, Subject


def _holds(subject: Subject) -> bool:
    said = subject.certificate
    return said is not None and not certificate.faults(said)


GATE = ProofGate(
    name="certificate",
    question="Does the certificate show that the weights are those of a fit without the rows?",
    needs=frozenset({Need.CERTIFICATE}),
    holds=_holds,
    reason="the sums fell by exactly the forgotten rows, and the weights solve what is left; no"
    " statistic of membership decides",
    otherwise="the certificate does not add up, so the weights are not known to be those of a fit"
    " without the rows",
)
