"""``unlearn requests … --all``: what was counted is what is decided about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service.ledger.audit import chain
from service.ledger.database import db
from service.ledger.database.states import RequestStatus
from service.ledger.database.tables import DeletionRequest
from service.ledger.requests import bulk
from tests import factories

WAITING = RequestStatus.AWAITING_APPROVAL
COMMAND = [sys.executable, "-m", "workers.cli", "requests", "deny", "--all"]


def _ask(session: Session) -> str:
    data = session.query(factories.Dataset).first() or factories.dataset(session, name="faces")
    made: str = factories.request(session, data, status=WAITING, rows=()).id
    subject = f"deletion_request:{made}"
    chain.append(session, actor="w", action=bulk.CAME[WAITING], subject=subject, data={})
    return made


def test_others_that_came_while_somebody_was_asked_are_not_decided_about(
    sqlite_database: Engine, tmp_path: Path
) -> None:
    url = sqlite_database.url.render_as_string()
    environment = os.environ | {"UNLEARN_DATABASE_URL": url, "UNLEARN_STATE_DIR": str(tmp_path)}
    sessions = db.session_factory(sqlite_database)
    with sessions.begin() as session:
        first = _ask(session)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(COMMAND, env=environment, **pipes) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        asked = b""
        while not asked.endswith(b"requests? [y/N]:"):
            said = running.stderr.read(1)
            assert said, asked
            asked += said
        with sessions.begin() as session:
            session.get_one(DeletionRequest, first).status = RequestStatus.ACCEPTED
            unseen = _ask(session)
        _, told = running.communicate(b"y\n", timeout=300)
    assert b"Deny 1 requests?" in asked
    assert running.returncode == 1
    assert b"others than those that were counted" in told
    with sessions() as session:
        assert session.get_one(DeletionRequest, unseen).status == WAITING
