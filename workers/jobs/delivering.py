"""One delivery to a client's URL: to an allowed address, within a time limit, with its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.ledger.webhooks import destinations
from service.ledger.webhooks.destinations import BadDestination, Lookup, Rules, Unresolved
from workers.jobs import posting

USER_AGENT = "unlearn-webhooks/1"


@dataclass(frozen=True)
class Outcome:
    """What became of a delivery."""

    #: The receiver's HTTP status; None: no answer.
    answered: int | None = None
    #: Why it failed; None: it was delivered.
    error: str | None = None
    #: Its Retry-After, in seconds.
    retry_after: float | None = None


def deliver(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    rules: Rules,
    lookup: Lookup,
    seconds: float,
) -> Outcome:
    """Post the body to the address that the URL's host has now, if it may go there."""
    try:
        destination = destinations.parse(url, rules)
        answer = posting.post(
            destination,
            body,
            headers,
            addresses=destinations.addresses(destination, rules, lookup),
            seconds=seconds,
        )
    except BadDestination as refused:
        return Outcome(error=refused.detail)
    except (posting.NotPosted, Unresolved) as failed:
        return Outcome(error=str(failed))
    return Outcome(answer.status, _refusal(answer.status), answer.retry_after)


def _refusal(status: int) -> str | None:
    """Return why an answer with this status is no success; None if it is one."""
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"it answered {status}; redirects are not followed, change the URL to where it leads"
    return f"it answered {status}"
