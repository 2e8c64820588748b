"""Versions lie on lines and keep what adds up along their chain; batches keep their size."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_ADDED = (
    ("line_id", sa.Integer(), None),
    ("clean_revision", sa.Integer(), "0"),
    ("batches_since_anchor", sa.Integer(), "0"),
    ("forgotten_classes", sa.JSON(), None),
    ("whole_classes", sa.JSON(), None),
    ("trained_classes", sa.JSON(none_as_null=True), None),
)

_VERSIONS = sa.table(
    "versions",
    sa.column("id", sa.Integer),
    sa.column("model_id", sa.Integer),
    sa.column("number", sa.Integer),
    sa.column("status", sa.String),
    sa.column("parent_id", sa.Integer),
    sa.column("anchor_id", sa.Integer),
    sa.column("data_revision", sa.Integer),
    sa.column("record_list_id", sa.String),
    sa.column("batch_id", sa.String),
    *(sa.column(name, kind) for name, kind, _ in _ADDED),
)
_BATCHES = sa.table(
    "batches",
    sa.column("id", sa.String),
    sa.column("model_id", sa.Integer),
    sa.column("kind", sa.String),
    sa.column("records", sa.Integer),
)
_BATCH_RECORDS = sa.table(
    "batch_records", sa.column("batch_id", sa.String), sa.column("row", sa.Integer)
)
_LISTED = sa.table(
    "record_list_rows", sa.column("list_id", sa.String), sa.column("row", sa.Integer)
)
_MODELS = sa.table("models", sa.column("id", sa.Integer), sa.column("dataset_id", sa.Integer))
_RECORDS = sa.table(
    "records",
    sa.column("dataset_id", sa.Integer),
    sa.column("row", sa.Integer),
    sa.column("label", sa.Integer),
    sa.column("split", sa.Integer),
    sa.column("excluded_revision", sa.Integer),
)


def upgrade() -> None:
    for name, kind, default in _ADDED:
        op.add_column(
            "versions", sa.Column(name, kind, nullable=default is None, server_default=default)
        )
    op.add_column("batches", sa.Column("records", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_versions_line_id_number", "versions", ["line_id", "number"])
    op.create_index("ix_batch_records_row_batch_id", "batch_records", ["row", "batch_id"])
    connection = op.get_bind()
    size = (
        sa.select(sa.func.count())
        .where(_BATCH_RECORDS.c.batch_id == _BATCHES.c.id)
        .scalar_subquery()
    )
    connection.execute(_BATCHES.update().values(records=size))
    for model_id, dataset_id in connection.execute(
        sa.select(_MODELS.c.id, _MODELS.c.dataset_id)
    ).all():
        _place_versions(connection, model_id, dataset_id)


def downgrade() -> None:
    op.drop_index("ix_batch_records_row_batch_id", table_name="batch_records")
    op.drop_index("ix_versions_line_id_number", table_name="versions")
    op.drop_column("batches", "records")
    for name, _, _ in reversed(_ADDED):
        op.drop_column("versions", name)


def _place_versions(connection: sa.Connection, model_id: int, dataset_id: int) -> None:
    placed: dict[int, dict[str, Any]] = {}
    #: The newest version of each line.
    ends: dict[int, int] = {}
    versions = connection.execute(
        sa.select(_VERSIONS).where(_VERSIONS.c.model_id == model_id).order_by(_VERSIONS.c.number)
    ).all()
    for version in versions:
        if version.anchor_id in (None, version.id):
            values = _anchor(connection, version, dataset_id)
        else:
            parent = placed[version.parent_id]
            values = _unlearned(connection, version, parent, dataset_id)
            goes_on = ends[parent["line_id"]] == version.parent_id and version.status != "rejected"
            values["line_id"] = parent["line_id"] if goes_on else version.id
        ends[values["line_id"]] = version.id
        placed[version.id] = values
        connection.execute(_VERSIONS.update().where(_VERSIONS.c.id == version.id).values(**values))


def _anchor(connection: sa.Connection, version: Any, dataset_id: int) -> dict[str, Any]:
    used: sa.ColumnElement[bool] = _RECORDS.c.split == 0
    if version.record_list_id is not None:
        used = sa.exists().where(
            _LISTED.c.list_id == version.record_list_id, _LISTED.c.row == _RECORDS.c.row
        )
    trained = connection.execute(
        sa.select(_RECORDS.c.label, sa.func.count())
        .where(
            _RECORDS.c.dataset_id == dataset_id,
            used,
            sa.or_(
                _RECORDS.c.excluded_revision.is_(None),
                _RECORDS.c.excluded_revision > version.data_revision,
            ),
        )
        .group_by(_RECORDS.c.label)
    )
    return {
        "line_id": version.id,
        "clean_revision": version.data_revision,
        "batches_since_anchor": 0,
        "forgotten_classes": {},
        "whole_classes": [],
        "trained_classes": {str(label): count for label, count in trained},
    }


def _unlearned(
    connection: sa.Connection, version: Any, parent: dict[str, Any], dataset_id: int
) -> dict[str, Any]:
    """Sums with the version's batch; what its chain leaves clean is found by its next batch."""
    here = connection.execute(
        sa.select(_RECORDS.c.label, sa.func.count())
        .join(_BATCH_RECORDS, _BATCH_RECORDS.c.row == _RECORDS.c.row)
        .where(_RECORDS.c.dataset_id == dataset_id, _BATCH_RECORDS.c.batch_id == version.batch_id)
        .group_by(_RECORDS.c.label)
    ).all()
    gone = Counter(parent["forgotten_classes"])
    gone.update({str(label): count for label, count in here})
    whole = set(parent["whole_classes"])
    kind = connection.execute(
        sa.select(_BATCHES.c.kind).where(_BATCHES.c.id == version.batch_id)
    ).scalar()
    if kind == "class":
        whole |= {label for label, _ in here}
    return {
        "clean_revision": version.data_revision,
        "batches_since_anchor": parent["batches_since_anchor"] + (version.batch_id is not None),
        "forgotten_classes": dict(gone),
        "whole_classes": sorted(whole),
        "trained_classes": None,
    }
