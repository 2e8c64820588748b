""".env.example lists every setting once, with its default and its description."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from service.settings import Settings

FILE = Path(__file__).parents[2] / ".env.example"


def test_every_setting_is_listed_once_as_it_is_defined() -> None:
    listed = [line for line in FILE.read_text().splitlines() if line.startswith("#UNLEARN_")]
    assert listed == [_line(name, field) for name, field in Settings.model_fields.items()]


def test_every_setting_has_a_description() -> None:
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []


def test_a_copy_with_every_line_switched_on_means_the_defaults(tmp_path: Path) -> None:
    text = FILE.read_text().replace("#UNLEARN_", "UNLEARN_")
    (tmp_path / ".env").write_text(text)
    assert Settings(_env_file=tmp_path / ".env") == Settings(_env_file=None)


def test_no_secret_stands_in_it() -> None:
    secrets = re.findall(r"^#(\w*(?:KEY|PASSWORD)\w*)=(.*?)  # ", FILE.read_text(), re.M)
    assert {name for name, _ in secrets} >= {"UNLEARN_SIGNING_KEY", "POSTGRES_PASSWORD"}
    assert [value for _, value in secrets if value] == []


def _line(name: str, field: FieldInfo) -> str:
    default = "" if isinstance(field.default, SecretStr) or field.default is None else field.default
    return f"#UNLEARN_{name.upper()}={default}  # {field.description}"
