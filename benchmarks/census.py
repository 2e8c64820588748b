"""A table of words as people pass it on, through the whole service: the UCI census.

    make bench-census OPTIONS='--data FOLDER'

``adult-census.csv`` is ingested as it lies there, with a blank after each comma, words in eight
columns, ``?`` for what is missing and labels in words. An ``mlp`` is trained on it; one record is
forgotten by its generated id, then a batch. Printed are what was read, accuracies, verdicts,
seconds, and whether a further ingest leaves the forgotten rows out.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.service import served
from service.ledger.database import db, schema
from service.ledger.registry import keys
from service.settings import Settings
from workers.demo.client import Client

SOURCE = "adult-census.csv"
GIVEN = {
    "source": {"path": SOURCE},
    "columns": {"label": "Salary"},
    "table": {"missing": ["?"]},
}


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="its folder")
    parser.add_argument("--records", type=int, default=200, help="forgotten in one batch")
    asked = parser.parse_args()
    if not (asked.data / SOURCE).exists():
        raise SystemExit(f"{asked.data / SOURCE} is not there; name its folder with --data")
    home = Path(tempfile.mkdtemp(prefix="bench-census-"))
    settings = Settings(_env_file=None, state_dir=home, data_root=asked.data.resolve())
    engine = db.engine(settings.database)
    schema.upgrade(engine)
    with db.session_factory(engine).begin() as session:
        _, key = keys.create(session, "bench", scopes=["admin"], actor="bench", now=db.now())
    engine.dispose()
    try:
        with served(settings) as address:
            client = Client(address, key)
            client.wait_until_up(timeout_seconds=60, alive=lambda: True)
            results.console.print_json(data=_walk(client, asked.records))
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _walk(client: Client, records: int) -> dict[str, Any]:
    began = time.monotonic()
    read = _ingest(client, "census")
    typed = {one["name"]: one for one in read["columns"] if "type" in one}
    ingested = time.monotonic() - began
    policy = {"max_wait_seconds": 0}
    model = {"name": "census", "dataset": "census", "architecture": {"name": "mlp"}}
    client.post("/v1/models", {**model, "policy": policy})
    _until(client, "/v1/models/census", "ready")
    began = time.monotonic()
    client.post("/v1/models/census/training-runs", {"seed": 1})
    client.wait_for("/v1/models/census", lambda seen: seen["production"], timeout_seconds=1200)
    trained = time.monotonic() - began
    # The ids follow from the rows' places in the file; most rows are of the train split.
    one = _forget(client, ["row-000017"])
    many = _forget(client, [f"row-{row:06d}" for row in range(100, 100 + records)])
    again = _ingest(client, "census-again")
    return {
        "rows": read["rows"],
        "features": read["input"]["parameters"]["inputs"],
        "classes": read["class_names"],
        "types": {name: column["type"] for name, column in typed.items()},
        "missing": {name: column["missing"] for name, column in typed.items() if column["missing"]},
        "rare words": {name: column["rare"] for name, column in typed.items() if column["rare"]},
        "ingest seconds": ingested,
        "training seconds": trained,
        "first version": _measured(client, 1),
        "one record": one,
        f"{records} records": many,
        "left out of a further ingest": again["notes"]["suppressed"],
    }


def _ingest(client: Client, name: str) -> Any:
    client.post("/v1/datasets", {"name": name, **GIVEN})
    return _until(client, f"/v1/datasets/{name}", "ready")


def _forget(client: Client, record_ids: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    body = {"dataset": "census", "record_ids": record_ids}
    made = client.post("/v1/deletion-requests", body)
    done = _until(client, f"/v1/deletion-requests/{made['id']}", "completed")
    seconds = time.monotonic() - began
    number = client.get("/v1/models/census")["production"]
    version = client.get(f"/v1/models/census/versions/{number}")
    return {
        "matched": done["matched"],
        "seconds": seconds,
        "method": version["method"],
        **_measured(client, number),
    }


def _measured(client: Client, number: int) -> dict[str, Any]:
    found = client.get(f"/v1/models/census/versions/{number}/verification")
    sets = found["measured"]["sets"]
    sets = sets.get("unlearned", sets)  # a batch also has those of what it is compared with
    return {"verdict": found["verdict"], "audit accuracy": sets["audit"]["accuracy"]}


def _until(client: Client, path: str, status: str) -> Any:
    return client.wait_for(
        path,
        lambda seen: seen["status"] == status,
        failed=lambda seen: seen["status"] in ("failed", "needs_review", "invalid"),
        timeout_seconds=1200,
    )


if __name__ == "__main__":
    main()
