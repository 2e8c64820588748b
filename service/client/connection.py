"""How both clients connect."""

from __future__ import annotations

from typing import Any

import httpx

from .version import __version__

#: Seconds without a byte after which an answer counts as lost.
TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 10.0


def options(url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the options of an ``httpx`` client; raise ``ValueError`` for what is no service's URL.

    The key goes into a header, so no error and no ``repr`` shows it.
    """
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise ValueError("give the service's URL as http:// or https:// with a host, without a key")
    if parsed.path not in ("", "/") or parsed.query or parsed.fragment:
        raise ValueError("give the service's URL without a path")
    headers = {"User-Agent": f"unlearn-client/{__version__}"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key):
            raise ValueError("the API key has characters that no key has; it begins with unl_")
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": parsed,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
    }
