"""The declaration of a kind of input, checked before it is used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from unlearning.core import declarations, options
from unlearning.errors import BadDeclaration
from unlearning.inputs._contract import Input

#: Dtypes in which a store keeps rows.
STORED = ("uint8", "float32", "int32")


@dataclass(frozen=True)
class Declared:
    """A kind of input, and its summary: the first line of its module's docstring."""

    input: Input[Any]
    summary: str


def read(name: str, module: ModuleType) -> Declared:
    """Return what ``module`` declares; raise ``BadDeclaration`` if it is wrong."""
    found = getattr(module, "INPUT", None)
    if not isinstance(found, Input):
        raise BadDeclaration("it must define INPUT, an object of a class derived from Input")
    if missing := [word for word in ("options", "axes", "dtypes") if not hasattr(found, word)]:
        raise BadDeclaration(f"INPUT lacks {', '.join(missing)}")
    if not found.dtypes or not set(found.dtypes) <= set(STORED):
        raise BadDeclaration(f"dtypes must be some of {', '.join(STORED)}")
    if found.dtypes not in (("uint8", "float32"), *((one,) for one in STORED)):
        raise BadDeclaration("dtypes is one type, or uint8 and float32")
    if found.scales and set(found.scales) != set(found.dtypes):
        raise BadDeclaration("scales must have a number for each of dtypes, or none")
    if not dataclasses.is_dataclass(found.options):
        raise BadDeclaration("options must be a frozen dataclass")
    try:
        options.schema(found.options)
    except Exception as error:  # pydantic has many errors for a type that has no schema
        raise BadDeclaration(f"options has no JSON schema ({type(error).__name__})") from None
    return Declared(found, declarations.summary(module))
