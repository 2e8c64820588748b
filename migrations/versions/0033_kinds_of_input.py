"""What the rows of a dataset are: images and tables, or a kind that its source names."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"

DATASETS = sa.table(
    "datasets",
    sa.column("id"),
    sa.column("shape", sa.JSON()),
    sa.column("dtype"),
    sa.column("input", sa.JSON()),
)
MODELS = sa.table("models", sa.column("id"), sa.column("dataset_id"), sa.column("input", sa.JSON()))


def upgrade() -> None:
    op.add_column("datasets", sa.Column("input", sa.JSON()))
    op.add_column("models", sa.Column("input", sa.JSON()))
    connection = op.get_bind()
    rows = connection.execute(sa.select(DATASETS.c.id, DATASETS.c.shape, DATASETS.c.dtype)).all()
    for dataset_id, shape, dtype in rows:
        if not shape:
            continue
        kind = _kind(shape, dtype)
        connection.execute(
            sa.update(DATASETS).where(DATASETS.c.id == dataset_id).values(input=kind)
        )
        of_model = {"name": kind["name"], "options": {}}
        connection.execute(
            sa.update(MODELS).where(MODELS.c.dataset_id == dataset_id).values(input=of_model)
        )


def downgrade() -> None:
    op.drop_column("models", "input")
    op.drop_column("datasets", "input")


def _kind(shape: list[int], dtype: str | None) -> dict[str, Any]:
    """Return what the release before took the rows for."""
    image = len(shape) == 3
    parameters = {"inputs": math.prod(shape)}
    if image:
        parameters |= dict(zip(("channels", "image_height", "image_width"), shape, strict=True))
    return {
        "name": "image" if image else "table",
        "options": {},
        "parameters": parameters,
        "scale": 1 / 255 if image and dtype == "uint8" else 1.0,
    }
