"""A report that the offline check finds sound."""

from __future__ import annotations

from typing import Any

import pytest

from service.ledger.database import db, schema
from service.ledger.database.states import VersionStatus
from service.ledger.reports import report
from tests import histories
from tests.factories import DIGESTER, NOW
from tests.histories import SIGNER


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report whose version has a successor's purge receipt in it."""
    engine = db.engine(f"sqlite:///{tmp_path_factory.mktemp('report')}/ledger.db")
    schema.upgrade(engine)
    with db.session_factory(engine)() as session:
        history = histories.forgotten(session)
        history.anchor.status = VersionStatus.PURGED
        subject = f"version:{history.model.name}/1"
        receipt = SIGNER.sign({"type": "purge-receipt", "version": subject, "destroyed": []})
        histories.say(session, "version:purged", subject, {"receipt": receipt})
        session.commit()
        made = report.report(session, history.version, digester=DIGESTER, signer=SIGNER, now=NOW)
    engine.dispose()
    return made
