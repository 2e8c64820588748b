"""Forms as browsers send them: ``application/x-www-form-urlencoded``, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import Request

from service.errors import Unprocessable, UnsupportedMediaType

MEDIA_TYPE = "application/x-www-form-urlencoded"
MAX_FIELDS = 1_000


@dataclass(frozen=True)
class Form:
    """The fields of a form; a field may be sent several times (checkboxes)."""

    fields: Mapping[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        """Return a field without the spaces around it; empty: not given."""
        return self.raw(name).strip()

    def raw(self, name: str) -> str:
        """Return a field as it was sent; empty: not given."""
        return next(iter(self.fields.get(name, ())), "")

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a field."""
        return self.fields.get(name, ())


async def read(request: Request) -> Form:
    """Return the form of a request; 415 for other bodies, 422 for one that cannot be stored.

    The size of the body is limited for every request (``service.api.access``).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE:
        raise UnsupportedMediaType("send the form as the page does")
    try:
        sent = (await request.body()).decode("ascii")
        pairs = parse_qsl(sent, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:  # also of bytes that are not UTF-8
        raise Unprocessable(
            f"the form cannot be read: it has more than {MAX_FIELDS} fields, or text that is not "
            "UTF-8"
        ) from None
    fields: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise Unprocessable("a field holds a NUL, which cannot be stored")
        fields[name] = (*fields.get(name, ()), value.replace("\r\n", "\n"))
    return Form(fields)
