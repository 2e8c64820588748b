"""What a declaration of any kind must have: its names, its summary, its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from unlearning.core import options
from unlearning.errors import BadDeclaration, WrongOptions


def require(module: ModuleType, names: Iterable[str]) -> None:
    """Raise ``BadDeclaration`` unless ``module`` defines all ``names``."""
    if missing := [one for one in names if not hasattr(module, one)]:
        raise BadDeclaration(f"it does not define {', '.join(missing)}")


def summary(module: ModuleType) -> str:
    """Return the first line of the module's docstring."""
    return (module.__doc__ or "").strip().partition("\n")[0]


def check_options(kind: Any) -> None:
    """Raise ``BadDeclaration`` unless ``kind`` is a frozen dataclass with valid defaults."""
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and frozen):
        raise BadDeclaration("Options must be a frozen dataclass")
    try:
        options.schema(kind)
        options.parse(kind, {})
    except WrongOptions as error:
        raise BadDeclaration(f"every option needs a default that it accepts ({error})") from None
    except Exception as error:  # pydantic has many errors for a type that has no schema
        raise BadDeclaration(f"Options has no JSON schema ({type(error).__name__})") from None
