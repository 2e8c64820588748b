"""The update proved that its weights are those of a fit on the retained rows, or near."""

from unlearning.heads import certificate
from unlearning.verification.gates import Need, ProofGate, Subject


def _holds(subject: Subject) -> bool:
    said = subject.certificate
    return said is not None and not certificate.faults(said)


GATE = ProofGate(
    name="certificate",
    question="Does the certificate show that the weights are those of a fit without the rows, or "
    "within a bound of them?",
    needs=frozenset({Need.CERTIFICATE}),
    holds=_holds,
    reason="the sums fell by exactly the forgotten rows, and the weights belong to what is left; no"
    " statistic of membership decides",
    otherwise="the certificate does not add up, so the weights are not known to be those of a fit"
    " without the rows",
)
