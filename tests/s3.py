"""An S3 server over HTTP in a process of its own: moto's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "an-access-key-of-tests",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-tests",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Server:
    """The server; ``client`` is its owner's, who sees every version of every object."""

    def __init__(self, port: int) -> None:
        import boto3

        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def bucket(self, *, versioned: bool = False) -> str:
        """Make a bucket; its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client.create_bucket(Bucket=name)
        if versioned:
            self.client.put_bucket_versioning(
                Bucket=name, VersioningConfiguration={"Status": "Enabled"}
            )
        return name

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every object as it is now, by its name."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {
            one["Key"]: self.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
            for page in pages
            for one in page.get("Contents", [])
        }

    def versions(self, bucket: str) -> list[tuple[str, bytes]]:
        """Every version of every object that was ever written, deleted or not."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=bucket)
        return [
            (
                one["Key"],
                self.client.get_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])[
                    "Body"
                ].read(),
            )
            for page in pages
            for one in page.get("Versions", [])
        ]


@contextmanager
def running() -> Iterator[Server]:
    """Start the server, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        _wait(process, port)
        yield Server(port)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("moto's server did not start")
