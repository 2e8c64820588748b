"""Models that the trainings lane trains when nothing else waits, for later deletions to use.

One model at a time: between two of them, whatever else is due has its turn. The policies are read
once for all of it, and mostly ask for nothing.
"""

from __future__ import annotations

from service.ledger.database import db
from service.ledger.registry import models
from workers.jobs import margins, references
from workers.runtime import Runtime


def run_due(runtime: Runtime) -> bool:
    """Train one model that a policy asks for; True when one was trained."""
    with runtime.session() as session:
        policies = dict(models.live_policies(db.read_only(session)))
    return references.run_wanted(runtime, policies) or margins.run_wanted(runtime, policies)
