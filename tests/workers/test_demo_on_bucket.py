"""The whole demo, as its command runs it, on a bucket of a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import s3
from tests.s3 import Server
from workers.demo import digits

pytest.importorskip("obstore")

SECRETS = [value for name, value in s3.ENVIRONMENT.items() if "KEY" in name]


@pytest.mark.slow
def test_the_demo_runs_on_a_bucket_and_leaves_no_row_in_plain_and_no_secret(
    s3_environment: Server, tmp_path: Path
) -> None:
    bucket = s3_environment.bucket(versioned=True)
    home = tmp_path / "demo"
    command = [sys.executable, "-m", "workers.cli", "demo"]
    done = subprocess.run(
        [*command, "--out", str(home), "--store-url", f"s3://{bucket}/demos"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Signed audit report" in done.stdout
    versions = s3_environment.versions(bucket)
    assert {name.split("/")[0] for name, _ in versions} == {"demos"}
    rows = [row.tobytes() for row in np.asarray(digits.load().x)]
    assert len(rows) == 1797
    assert not any(row in content for _, content in versions for row in rows)
    assert not (home / "store").exists()
    told = done.stdout + done.stderr + (home / "service.log").read_text()
    assert not any(secret in told for secret in SECRETS)
