"""How much of a set was read for the figures that were shown of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0037"
down_revision = "0036"

TABLE = "shown_sets"
#: A limit that leaves out no row. Samples were drawn otherwise before, so two that are compared by
#: their limits, and differ, do have different rows.
ALL = 2**31 - 1

COLUMNS = ("dataset_id", "name", "list_id", "below", "revision")
_REPEATED = """
    DELETE FROM shown_sets WHERE id NOT IN
        (SELECT MIN(id) FROM shown_sets GROUP BY dataset_id, name, list_id, revision)
"""


def upgrade() -> None:
    with op.batch_alter_table(TABLE) as table:
        table.add_column(sa.Column("below", sa.Integer(), nullable=False, server_default=str(ALL)))
        table.add_column(sa.Column("size", sa.Integer()))
        _replace(
            table, "dataset_id_name_list_id_revision", "dataset_id_name_list_id_below_revision"
        )
    with op.batch_alter_table(TABLE) as table:
        table.alter_column("below", server_default=None)


def downgrade() -> None:
    op.execute(_REPEATED)
    with op.batch_alter_table(TABLE) as table:
        _replace(
            table, "dataset_id_name_list_id_below_revision", "dataset_id_name_list_id_revision"
        )
        table.drop_column("size")
        table.drop_column("below")


def _replace(table: BatchOperations, old: str, new: str) -> None:
    table.drop_constraint(f"uq_{TABLE}_{old}", type_="unique")
    columns = [one for one in COLUMNS if one in new]
    table.create_unique_constraint(f"uq_{TABLE}_{new}", columns)
