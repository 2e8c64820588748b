"""A deletion request may be about a subject in every dataset."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_REQUESTS = sa.table(
    "deletion_requests", sa.column("id", sa.String), sa.column("dataset_id", sa.Integer)
)
_SHARES = sa.table(
    "request_datasets", sa.column("request_id", sa.String), sa.column("dataset_id", sa.Integer)
)
_DATASETS = sa.table("datasets", sa.column("id", sa.Integer))


def upgrade() -> None:
    with op.batch_alter_table("deletion_requests") as table:
        table.alter_column("dataset_id", existing_type=sa.Integer(), nullable=True)
    op.create_table(
        "request_datasets",
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.Integer(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("already_forgotten", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_request_datasets_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["deletion_requests.id"],
            name=op.f("fk_request_datasets_request_id_deletion_requests"),
        ),
        sa.PrimaryKeyConstraint("request_id", "dataset_id", name=op.f("pk_request_datasets")),
    )
    op.create_index(
        op.f("ix_request_datasets_dataset_id"), "request_datasets", ["dataset_id"], unique=False
    )


def downgrade() -> None:
    """A request over every dataset is then one of the first dataset that it met."""
    met = sa.select(sa.func.min(_SHARES.c.dataset_id)).where(_SHARES.c.request_id == _REQUESTS.c.id)
    first = sa.select(sa.func.min(_DATASETS.c.id))
    op.execute(
        _REQUESTS.update()
        .where(_REQUESTS.c.dataset_id.is_(None))
        .values(dataset_id=sa.func.coalesce(met.scalar_subquery(), first.scalar_subquery()))
    )
    op.drop_table("request_datasets")
    with op.batch_alter_table("deletion_requests") as table:
        table.alter_column("dataset_id", existing_type=sa.Integer(), nullable=False)
