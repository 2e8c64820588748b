"""The secrets that sign deliveries: while they change, after their key changed, and public keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from standardwebhooks.webhooks import Webhook as Verifier

from service.ledger.webhooks import endpoints
from service.ledger.webhooks.sealing import Sealer
from service.ledger.webhooks.signatures import Scheme
from tests.workers.webhook_office import Office


def test_both_secrets_sign_for_the_overlap_and_then_the_new_one_alone(office: Office) -> None:
    office.now = datetime.now(UTC)
    to = office.receiver()
    webhook = office.add(to)
    old = office.secrets[webhook]
    _, new = office.do(
        endpoints.rotate,
        webhook,
        overlap=timedelta(seconds=100),
        sealer=Sealer.from_settings(office.settings),
        now=office.now,
    )
    office.happen("dr_1")
    office.send()
    both = to.received[0]
    assert len(both.headers["webhook-signature"].split()) == 2
    for secret in (old, new):
        Verifier(secret).verify(both.body, dict(both.headers))
    office.happen("dr_2")
    office.later(101)
    one = to.received[1]
    assert len(one.headers["webhook-signature"].split()) == 1
    Verifier(new).verify(one.body, dict(one.headers))
    assert office.row(webhook).previous_secret is None


def test_secrets_are_encrypted_anew_after_a_change_of_the_subject_key(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to)
    before = office.settings.subject_key
    changed = {"subject_key": type(before)("0123456789abcdef" * 2), "subject_key_previous": before}
    office.runtime.settings = office.settings.model_copy(update=changed)
    sealer = Sealer.from_settings(office.settings)
    assert not sealer.is_current(office.row(webhook).secret, owner=webhook)
    office.happen("dr_1")
    office.send()
    assert sealer.is_current(office.row(webhook).secret, owner=webhook)
    assert sealer.open(office.row(webhook).secret, owner=webhook) == office.secrets[webhook]


def test_a_secret_whose_key_is_gone_stops_its_webhook_and_no_other(office: Office) -> None:
    lost, to = office.receiver(), office.receiver()
    office.add(lost)
    before = office.settings.subject_key
    changed = {"subject_key": type(before)("0123456789abcdef" * 2)}
    office.runtime.settings = office.settings.model_copy(update=changed)
    office.add(to)
    office.happen("dr_1")
    assert office.send()
    assert (lost.received, to.requests) == ([], ["dr_1"])


def test_a_public_key_is_enough_to_check_deliveries(office: Office) -> None:
    to = office.receiver()
    webhook = office.add(to, scheme=Scheme.ED25519)
    office.happen("dr_1")
    office.send()
    assert to.received[0].headers["webhook-signature"].startswith("v1a,")
    assert str(office.row(webhook).public_key).startswith("whpk_")
