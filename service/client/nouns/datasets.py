"""Calls about datasets."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .. import shapes
from ..answers import Lines, Page
from ..calls import UNSET, Call, Unset, key
from ..drivers import Noun


class DatasetsCalls(Noun):
    """Calls about datasets."""

    def create(
        self,
        *,
        name: str,
        source: shapes.SourceGiven | Mapping[str, Any],
        columns: Unset | shapes.ColumnsGiven | Mapping[str, Any] = UNSET,
        classes: Unset | int | None = UNSET,
        input: Unset | shapes.InputGiven | Mapping[str, Any] | None = UNSET,
        table: Unset | shapes.TableGiven | Mapping[str, Any] | None = UNSET,
        resize: Unset | Sequence[int] | None = UNSET,
        id_case: Unset | Literal["distinct", "ignored"] | None = UNSET,
        keep_text: Unset | bool = UNSET,
        text_bytes: Unset | int = UNSET,
        seed: Unset | int = UNSET,
        fractions: Unset | shapes.FractionsGiven | Mapping[str, Any] = UNSET,
        dry_run: Unset | bool = UNSET,
    ) -> shapes.DatasetDetail | shapes.InspectionView:
        """Call ``POST /v1/datasets`` (scope models:write).

        Ingest a dataset, or inspect its source (dry_run); a worker reads it. Queue the source for
        ingest, or for an inspection with `dry_run`.
        """
        return self._call(
            Call[shapes.DatasetDetail | shapes.InspectionView](
                "POST",
                "/v1/datasets",
                shapes.DatasetDetail | shapes.InspectionView,
                body={
                    "name": name,
                    "source": source,
                    "columns": columns,
                    "classes": classes,
                    "input": input,
                    "table": table,
                    "resize": resize,
                    "id_case": id_case,
                    "keep_text": keep_text,
                    "text_bytes": text_bytes,
                    "seed": seed,
                    "fractions": fractions,
                    "dry_run": dry_run,
                },
            )
        )

    def page(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.DatasetView]:
        """Call ``GET /v1/datasets`` (scope models:read).

        List the datasets. Return a page of the datasets.
        """
        return self._call(
            Call[Page[shapes.DatasetView]](
                "GET",
                "/v1/datasets",
                Page[shapes.DatasetView],
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each(
        self,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.DatasetView]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.DatasetView]](
                "GET", "/v1/datasets", Page[shapes.DatasetView], query={"limit": limit}
            )
        )

    def get(
        self,
        dataset: str,
    ) -> shapes.DatasetDetail:
        """Call ``GET /v1/datasets/{dataset}`` (scope models:read).

        Show a dataset, how far its ingest is, and its counts. Return a dataset, the progress of its
        ingest, and its counts.
        """
        return self._call(
            Call[shapes.DatasetDetail](
                "GET", "/v1/datasets/{dataset}", shapes.DatasetDetail, {"dataset": dataset}
            )
        )

    def delete(
        self,
        dataset: str,
        *,
        models: Literal["keep", "withdraw"] | None = None,
        purge: Literal["after_window", "now"] | None = None,
    ) -> shapes.DatasetDetail:
        """Call ``DELETE /v1/datasets/{dataset}`` (scope models:write).

        Withdraw a dataset and have every row of it destroyed. Refused while models of it are not
        withdrawn, unless `models=withdraw`. Workers overwrite all raw rows, remove what identified
        the records, complete the open requests and leave a signed receipt. The name stays taken.
        This cannot be undone.
        """
        return self._call(
            Call[shapes.DatasetDetail](
                "DELETE",
                "/v1/datasets/{dataset}",
                shapes.DatasetDetail,
                {"dataset": dataset},
                query={"models": models, "purge": purge},
            )
        )

    def append(
        self,
        dataset: str,
        *,
        source: shapes.SourceGiven | Mapping[str, Any],
        existing: Unset | Literal["refuse", "skip"] = UNSET,
        seed: Unset | int | None = UNSET,
        fractions: Unset | shapes.FractionsGiven | Mapping[str, Any] | None = UNSET,
        dry_run: Unset | bool = UNSET,
        idempotency_key: str | None = None,
    ) -> shapes.AppendView | shapes.InspectionView:
        """Call ``POST /v1/datasets/{dataset}/rows`` (scope models:write).

        Add the rows of a source to a dataset, or inspect it (dry_run); a worker reads it. Queue a
        source whose rows join the dataset. It is read with the columns, kind of input, classes and
        treatment of ids of the dataset's own source, and refused if it does not have them. Rows of
        forgotten people, forgotten rows and rows of forgotten classes are left out and counted. The
        dataset is unchanged until all rows join it at once; with that its revision grows. Live
        versions stay as they are; trainings that begin afterwards read the new rows too.
        """
        return self._call(
            Call[shapes.AppendView | shapes.InspectionView](
                "POST",
                "/v1/datasets/{dataset}/rows",
                shapes.AppendView | shapes.InspectionView,
                {"dataset": dataset},
                body={
                    "source": source,
                    "existing": existing,
                    "seed": seed,
                    "fractions": fractions,
                    "dry_run": dry_run,
                },
                idempotency_key=key(idempotency_key),
            )
        )

    def page_appends(
        self,
        dataset: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.AppendView]:
        """Call ``GET /v1/datasets/{dataset}/appends`` (scope models:read).

        List the appends of a dataset, newest first. Return a page of the dataset's appends.
        """
        return self._call(
            Call[Page[shapes.AppendView]](
                "GET",
                "/v1/datasets/{dataset}/appends",
                Page[shapes.AppendView],
                {"dataset": dataset},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def each_appends(
        self,
        dataset: str,
        *,
        limit: int | None = None,
    ) -> Iterator[shapes.AppendView]:
        """Go through all pages of ``page_appends``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.AppendView]](
                "GET",
                "/v1/datasets/{dataset}/appends",
                Page[shapes.AppendView],
                {"dataset": dataset},
                query={"limit": limit},
            )
        )

    def get_append(
        self,
        dataset: str,
        append: str,
    ) -> shapes.AppendView:
        """Call ``GET /v1/datasets/{dataset}/appends/{append}`` (scope models:read).

        Show an append: how far it is, how many rows joined, how many were left out. Return an
        append of the dataset.
        """
        return self._call(
            Call[shapes.AppendView](
                "GET",
                "/v1/datasets/{dataset}/appends/{append}",
                shapes.AppendView,
                {"dataset": dataset, "append": append},
            )
        )

    def get_inspection(
        self,
        inspection: str,
    ) -> shapes.InspectionView:
        """Call ``GET /v1/dataset-inspections/{inspection}`` (scope models:read).

        Show what a source would be read as. Return the state of an inspection, and its result once
        a worker has made it.
        """
        return self._call(
            Call[shapes.InspectionView](
                "GET",
                "/v1/dataset-inspections/{inspection}",
                shapes.InspectionView,
                {"inspection": inspection},
            )
        )

    def record_ids(
        self,
        dataset: str,
        *,
        split: Literal["train", "validation", "audit"] | None = None,
    ) -> list[str]:
        """Call ``GET /v1/datasets/{dataset}/record-ids`` (scope models:write).

        List the ids of a split's records, less those taken out of training. Stream the ids; those
        of rows excluded after the revision in the header may be missing.
        """
        return self._call(
            Call[list[str]](
                "GET",
                "/v1/datasets/{dataset}/record-ids",
                Lines,
                {"dataset": dataset},
                query={"split": split},
            )
        )

    def create_record_list(
        self,
        dataset: str,
        *,
        content: bytes | Path,
        media_type: str = "application/x-ndjson",
    ) -> shapes.RecordListView:
        """Call ``POST /v1/datasets/{dataset}/record-lists`` (scope models:write).

        Keep a list of the records that a training elsewhere used. The body holds a JSON string on
        each line, as `record-ids` gives them. The same records sent twice are one list. Ids that
        name no record are refused by their positions.
        """
        return self._call(
            Call[shapes.RecordListView](
                "POST",
                "/v1/datasets/{dataset}/record-lists",
                shapes.RecordListView,
                {"dataset": dataset},
                content=content,
                media_type=media_type,
            )
        )

    def get_record_list(
        self,
        dataset: str,
        list_id: str,
    ) -> shapes.RecordListView:
        """Call ``GET /v1/datasets/{dataset}/record-lists/{list_id}`` (scope models:read).

        Show a record list. Return a record list with its counts, without its ids.
        """
        return self._call(
            Call[shapes.RecordListView](
                "GET",
                "/v1/datasets/{dataset}/record-lists/{list_id}",
                shapes.RecordListView,
                {"dataset": dataset, "list_id": list_id},
            )
        )

    def read_texts(
        self,
        dataset: str,
        *,
        record_ids: Sequence[str],
    ) -> shapes.TextsView:
        """Call ``POST /v1/datasets/{dataset}/texts:read`` (scope texts:read).

        Read the texts of records, of a dataset that keeps them; audited. Return the texts; each
        reading leaves an audit line with their number.
        """
        return self._call(
            Call[shapes.TextsView](
                "POST",
                "/v1/datasets/{dataset}/texts:read",
                shapes.TextsView,
                {"dataset": dataset},
                body={"record_ids": record_ids},
            )
        )
