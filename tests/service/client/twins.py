"""The async client is the sync one with other words: how one text becomes the other."""

from __future__ import annotations

import re

_AWAITED = "whose calls are awaited, on asyncio or trio"

#: What is replaced, in this order.
WORDS = (
    (
        r'^"""The client that waits\."""',
        '"""The client that is awaited, written as its twin is."""',
    ),
    (r"\bCallable, Iterator\b", "AsyncIterator, Callable"),
    (r"-> Iterator\b", "-> AsyncIterator"),
    (r"from \.nouns import", "from .async_nouns import"),
    (r"\bDriver\b", "AsyncDriver"),
    (r"httpx\.Client\b", "httpx.AsyncClient"),
    (r"BaseTransport", "AsyncBaseTransport"),
    (r"^class (\w+)", r"class Async\1"),
    (
        r"\b(\w+)\.([A-Z][a-z]+)Calls",
        r"\1.Async\2Calls",
    ),
    (r"= (Requests|Datasets|Models|Versions|Runs)\(driver\)", r"= Async\1(driver)"),
    (r"def (?!__init__|__enter__|__exit__)", "async def "),
    (r"def __(enter|exit)__", r"async def __a\1__"),
    (r"\bself\.close\(\)", "await self.close()"),
    (r"self\._http\.close", "await self._http.aclose"),
    (r"return self\._driver\.run", "return await self._driver.run"),
    (r"(yield|found =) self\.download", r"\1 await self.download"),
    (r"            self\._driver\.pause", "            await self._driver.pause"),
    (
        r"that waits for each answer; one may be shared by threads",
        "whose calls are awaited, on asyncio or trio",
    ),
)


def awaited(text: str) -> str:
    """The async client's source, from that of the sync one; not yet formatted."""
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text, flags=re.MULTILINE)
    return text
