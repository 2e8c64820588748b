"""A report that the offline check finds sound."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from service.ledger.database import db
from service.ledger.database.states import VersionStatus
from service.ledger.reports import report
from tests import histories
from tests.factories import DIGESTER, NOW
from tests.histories import SIGNER


@pytest.fixture(scope="module")
def sound(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report whose version has a successor's purge receipt in it."""
    path = tmp_path_factory.mktemp("report") / "ledger.db"
    shutil.copyfile(sqlite_template, path)
    engine = db.engine(f"sqlite:///{path}")
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
