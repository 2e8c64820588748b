"""Which subject ids an identity of OpenDSR may stand for."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from service.ledger.opendsr.identities import (
    BadHash,
    Identity,
    IdentityFormat,
    IdentityType,
    Ingested,
    UnsupportedIdentity,
)

EMAIL = "Mo@Example.org "


def email(form: str, value: str) -> Identity:
    return Identity(IdentityType.EMAIL, IdentityFormat(form), value)


@pytest.mark.parametrize("form", ["sha1", "md5", "sha256"])
def test_a_raw_identity_is_hashed_where_hashes_were_ingested(form: str) -> None:
    expected = hashlib.new(form, b"mo@example.org").hexdigest()
    ingested = Ingested.parse(f"email:{form}")
    assert ingested.subject_ids([email("raw", EMAIL)]) == [expected]
    assert ingested.subject_ids([email(form, expected.upper())]) == [expected]


def test_a_raw_identity_is_tried_in_every_form_that_was_ingested() -> None:
    ingested = Ingested.parse("email:raw, email:sha256")
    digest = hashlib.sha256(b"mo@example.org").hexdigest()
    assert ingested.subject_ids([email("raw", EMAIL)]) == [EMAIL, digest]
    assert ingested.subject_ids([email("raw", EMAIL), email("sha256", digest)]) == [EMAIL, digest]


def test_a_hash_is_refused_where_raw_ids_were_ingested() -> None:
    secret = "ab" * 32
    with pytest.raises(UnsupportedIdentity) as refused:
        Ingested.parse("email:raw").subject_ids([email("sha256", secret)])
    assert secret not in refused.value.detail


@pytest.mark.parametrize("value", ["ab" * 31, "zz" * 32, "ab" * 20])
def test_what_is_no_hash_of_its_format_is_refused_without_being_quoted(value: str) -> None:
    with pytest.raises(BadHash) as refused:
        Ingested.parse("email:sha256").subject_ids([email("sha256", value)])
    assert value not in refused.value.detail


def test_what_is_supported_is_what_is_matched_and_nothing_else() -> None:
    ingested = Ingested.parse("email:sha256,android_id:raw")
    for kind, form in itertools.product(IdentityType, IdentityFormat):
        value = "ab" * {"sha1": 20, "md5": 16}.get(form, 32)
        identity = Identity(kind, form, value)
        if (kind, form) in ingested.supported:
            assert ingested.subject_ids([identity])
        else:
            with pytest.raises(UnsupportedIdentity):
                ingested.subject_ids([identity])


@pytest.mark.parametrize("text", ["", "email", "email:sha512", "phone:raw", "email:raw;"])
def test_unclear_settings_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="UNLEARN_OPENDSR_IDENTITIES"):
        Ingested.parse(text)


def test_the_value_does_not_show() -> None:
    assert EMAIL not in repr(email("raw", EMAIL))
