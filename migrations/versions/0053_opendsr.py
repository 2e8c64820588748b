"""OpenDSR requests, their deletion requests and their callbacks; when a person asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0053"
down_revision = "0049"


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.add_column("deletion_requests", sa.Column("asked_at", moment, nullable=True))
    op.create_table(
        "opendsr_requests",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("controller", sa.String(64), nullable=False),
        sa.Column("subject_request_id", sa.String(36), nullable=False),
        sa.Column("body_digest", sa.String(64), nullable=False),
        sa.Column("received_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_opendsr_requests"),
        sa.UniqueConstraint(
            "controller",
            "subject_request_id",
            name="uq_opendsr_requests_controller_subject_request_id",
        ),
    )
    op.create_table(
        "opendsr_parts",
        sa.Column("opendsr_id", sa.String(40), nullable=False),
        sa.Column("request_id", sa.String(40), nullable=False),
        sa.ForeignKeyConstraint(
            ["opendsr_id"],
            ["opendsr_requests.id"],
            name="fk_opendsr_parts_opendsr_id_opendsr_requests",
        ),
        sa.ForeignKeyConstraint(
            ["request_id"],
            ["deletion_requests.id"],
            name="fk_opendsr_parts_request_id_deletion_requests",
        ),
        sa.PrimaryKeyConstraint("opendsr_id", "request_id", name="pk_opendsr_parts"),
    )
    op.create_index("ix_opendsr_parts_request_id", "opendsr_parts", ["request_id"])
    op.create_table(
        "opendsr_callbacks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("opendsr_id", sa.String(40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("told", sa.String(16), nullable=False),
        sa.Column("ended_at", moment),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", moment),
        sa.Column("not_before", moment),
        sa.Column("delivered_at", moment),
        sa.Column("error", sa.String(255)),
        sa.ForeignKeyConstraint(
            ["opendsr_id"],
            ["opendsr_requests.id"],
            name="fk_opendsr_callbacks_opendsr_id_opendsr_requests",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_opendsr_callbacks"),
    )
    op.create_index("ix_opendsr_callbacks_opendsr_id", "opendsr_callbacks", ["opendsr_id"])
    to_tell = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_opendsr_callbacks_to_tell",
        "opendsr_callbacks",
        ["id"],
        sqlite_where=to_tell,
        postgresql_where=to_tell,
    )


def downgrade() -> None:
    op.drop_table("opendsr_callbacks")
    op.drop_table("opendsr_parts")
    op.drop_table("opendsr_requests")
    op.drop_column("deletion_requests", "asked_at")
