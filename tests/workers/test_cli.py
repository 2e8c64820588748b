"""The command line, as an operator types it."""

from __future__ import annotations

from typer.testing import CliRunner

from workers import cli


def test_a_demo_elsewhere_without_a_key_is_refused_at_once() -> None:
    result = CliRunner().invoke(cli.app, ["demo", "--url", "http://127.0.0.1:9", "--api-key", ""])
    assert result.exit_code == 1
    assert "--api-key" in result.output
