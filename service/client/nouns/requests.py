"""Calls about requests."""

# Written by `make client` from the OpenAPI document; do not edit.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from .. import shapes
from ..answers import Page
from ..calls import UNSET, Call, Unset, key
from ..drivers import Noun


class RequestsCalls(Noun):
    """Calls about requests."""

    def create_batch(
        self,
        *,
        items: Sequence[shapes.NewBatchItem | Mapping[str, Any]],
        idempotency_key: str | None = None,
    ) -> shapes.BatchResults:
        """Call ``POST /v1/deletion-requests:batch`` (scope requests:write).

        Send up to 1,000 deletion requests at once. Accept or refuse each item on its own; `items`
        has the results in the same order. Items that name more than 10,000 records together are
        recorded in several transactions. An `Idempotency-Key` of the call covers every item that
        has none of its own.
        """
        return self._call(
            Call[shapes.BatchResults](
                "POST",
                "/v1/deletion-requests:batch",
                shapes.BatchResults,
                body={"items": items},
                idempotency_key=key(idempotency_key),
            )
        )

    def preview(
        self,
        *,
        dataset: Unset | str = UNSET,
        record_ids: Unset | Sequence[str] = UNSET,
        subject_id: Unset | str = UNSET,
        label: Unset | int = UNSET,
        class_name: Unset | str = UNSET,
        reason: Unset | str | None = UNSET,
        client_reference: Unset | str | None = UNSET,
        regulation: Unset | shapes.Regulation | str = UNSET,
        due_days: Unset | int = UNSET,
    ) -> shapes.Preview:
        """Call ``POST /v1/deletion-requests:preview`` (scope requests:write).

        Preview what a deletion request would match. Return what a request with this body would
        meet. Nothing is recorded except that this key asked; the number of previews is limited.
        """
        return self._call(
            Call[shapes.Preview](
                "POST",
                "/v1/deletion-requests:preview",
                shapes.Preview,
                body={
                    "dataset": dataset,
                    "record_ids": record_ids,
                    "subject_id": subject_id,
                    "label": label,
                    "class_name": class_name,
                    "reason": reason,
                    "client_reference": client_reference,
                    "regulation": regulation,
                    "due_days": due_days,
                },
            )
        )

    def create(
        self,
        *,
        dataset: Unset | str = UNSET,
        record_ids: Unset | Sequence[str] = UNSET,
        subject_id: Unset | str = UNSET,
        label: Unset | int = UNSET,
        class_name: Unset | str = UNSET,
        reason: Unset | str | None = UNSET,
        client_reference: Unset | str | None = UNSET,
        regulation: Unset | shapes.Regulation | str = UNSET,
        due_days: Unset | int = UNSET,
        idempotency_key: str | None = None,
    ) -> shapes.DeletionRequest:
        """Call ``POST /v1/deletion-requests`` (scope requests:write).

        Request that records, a subject or a class be forgotten. Record the request and answer once
        it is stored durably. Workers carry it out in batches; follow it at `Location`.
        """
        return self._call(
            Call[shapes.DeletionRequest](
                "POST",
                "/v1/deletion-requests",
                shapes.DeletionRequest,
                body={
                    "dataset": dataset,
                    "record_ids": record_ids,
                    "subject_id": subject_id,
                    "label": label,
                    "class_name": class_name,
                    "reason": reason,
                    "client_reference": client_reference,
                    "regulation": regulation,
                    "due_days": due_days,
                },
                idempotency_key=key(idempotency_key),
            )
        )

    def page(
        self,
        *,
        status: shapes.RequestStatus | str | None = None,
        dataset: str | None = None,
        model: str | None = None,
        due_before: datetime | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.DeletionRequest]:
        """Call ``GET /v1/deletion-requests`` (scope requests:read).

        List deletion requests, oldest first. Return one page; pass `next_cursor` as `cursor` for
        the next one.
        """
        return self._call(
            Call[Page[shapes.DeletionRequest]](
                "GET",
                "/v1/deletion-requests",
                Page[shapes.DeletionRequest],
                query={
                    "status": status,
                    "dataset": dataset,
                    "model": model,
                    "due_before": due_before,
                    "limit": limit,
                    "cursor": cursor,
                },
            )
        )

    def each(
        self,
        *,
        status: shapes.RequestStatus | str | None = None,
        dataset: str | None = None,
        model: str | None = None,
        due_before: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[shapes.DeletionRequest]:
        """Go through all pages of ``page``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.DeletionRequest]](
                "GET",
                "/v1/deletion-requests",
                Page[shapes.DeletionRequest],
                query={
                    "status": status,
                    "dataset": dataset,
                    "model": model,
                    "due_before": due_before,
                    "limit": limit,
                },
            )
        )

    def get(
        self,
        request_id: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``GET /v1/deletion-requests/{request_id}`` (scope requests:read).

        One deletion request. Return the request with its state on each model.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "GET",
                "/v1/deletion-requests/{request_id}",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
            )
        )

    def cancel(
        self,
        request_id: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``DELETE /v1/deletion-requests/{request_id}`` (scope requests:write).

        Cancel a deletion request. Cancel the request, which is possible until a worker begins with
        it.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "DELETE",
                "/v1/deletion-requests/{request_id}",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
            )
        )

    def events(
        self,
        request_id: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> shapes.Events:
        """Call ``GET /v1/deletion-requests/{request_id}/events`` (scope requests:read).

        The events of a deletion request. Return its lines of the audit chain, and the state of its
        erasure on each model. A batch is claimed with one line, `batch:claimed`, which names every
        request in it.
        """
        return self._call(
            Call[shapes.Events](
                "GET",
                "/v1/deletion-requests/{request_id}/events",
                shapes.Events,
                {"request_id": request_id},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def receipt(
        self,
        request_id: str,
    ) -> shapes.Signed:
        """Call ``GET /v1/deletion-requests/{request_id}/receipt`` (scope requests:read).

        The signed receipt of a deletion request. Return a signed receipt for the person, by the
        Accept header as JSON or as a page. It tells what was asked, what was done with how many
        models, what that means, and what remains. It has no figure about others, no id of another
        request, and no text that operators wrote for each other. `unlearn receipts verify` checks a
        saved one in either form.
        """
        return self._call(
            Call[shapes.Signed](
                "GET",
                "/v1/deletion-requests/{request_id}/receipt",
                shapes.Signed,
                {"request_id": request_id},
            )
        )

    def page_holds(
        self,
        *,
        in_force: bool | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[shapes.ListedHold]:
        """Call ``GET /v1/legal-holds`` (scope requests:read).

        List the legal holds. Return a page of the legal holds, oldest first.
        """
        return self._call(
            Call[Page[shapes.ListedHold]](
                "GET",
                "/v1/legal-holds",
                Page[shapes.ListedHold],
                query={"in_force": in_force, "limit": limit, "cursor": cursor},
            )
        )

    def each_holds(
        self,
        *,
        in_force: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[shapes.ListedHold]:
        """Go through all pages of ``page_holds``; ``limit``: rows per page."""
        return self._each(
            Call[Page[shapes.ListedHold]](
                "GET",
                "/v1/legal-holds",
                Page[shapes.ListedHold],
                query={"in_force": in_force, "limit": limit},
            )
        )

    def retry(
        self,
        request_id: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:retry`` (scope requests:write).

        Try a request that needs review again. Give the request a new set of attempts, in batches
        apart from other requests.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:retry",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
            )
        )

    def approve(
        self,
        request_id: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:approve`` (scope requests:approve).

        Approve a large request. Approve a request that the policy's approval limits hold back.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:approve",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
            )
        )

    def deny(
        self,
        request_id: str,
        *,
        reason_code: Unset | shapes.DenialReason | str = UNSET,
        reason: Unset | str | None = UNSET,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:deny`` (scope requests:approve).

        Deny a large request. Deny a request that the policy's approval limits hold back. It ends
        here.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:deny",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
                body={"reason_code": reason_code, "reason": reason},
            )
        )

    def extend(
        self,
        request_id: str,
        *,
        reason_code: shapes.ExtensionReason | str,
        reason: str,
        periods: Unset | int = UNSET,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:extend`` (scope requests:approve).

        Extend the due date of a request. Move the due date by one or more periods of the request's
        regulation, before it has passed. The person has to be told of the extension and its reason
        before the present due date.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:extend",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
                body={"periods": periods, "reason_code": reason_code, "reason": reason},
            )
        )

    def hold(
        self,
        request_id: str,
        *,
        reason_code: shapes.HoldReason | str,
        reason: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:hold`` (scope requests:approve).

        Place a legal hold on a request. Stop the request: no model unlearns its records and no raw
        row of them is overwritten. A batch that is under way with it is stopped; its other requests
        go into the next one. What would destroy the records in another way is answered 409 until
        the hold is released.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:hold",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
                body={"reason_code": reason_code, "reason": reason},
            )
        )

    def release_hold(
        self,
        request_id: str,
        *,
        reason: str,
    ) -> shapes.DeletionRequestDetail:
        """Call ``POST /v1/deletion-requests/{request_id}:release-hold`` (scope requests:approve).

        Release the legal hold on a request. Let the request go on; its due date has not moved.
        """
        return self._call(
            Call[shapes.DeletionRequestDetail](
                "POST",
                "/v1/deletion-requests/{request_id}:release-hold",
                shapes.DeletionRequestDetail,
                {"request_id": request_id},
                body={"reason": reason},
            )
        )

    def preview_bulk(
        self,
        *,
        action: Literal["approve", "deny", "retry"],
        filter: Unset | shapes.BulkFilter | Mapping[str, Any] = UNSET,
    ) -> shapes.BulkPreview:
        """Call ``POST /v1/bulk-decisions:preview`` (scope requests:read).

        Count the deletion requests that a decision would be about. Return how many requests fit
        now. The key needs the scope of the action, too: `requests:approve`, or `requests:write` to
        retry.
        """
        return self._call(
            Call[shapes.BulkPreview](
                "POST",
                "/v1/bulk-decisions:preview",
                shapes.BulkPreview,
                body={"action": action, "filter": filter},
            )
        )

    def create_bulk(
        self,
        *,
        action: Literal["approve", "deny", "retry"],
        matching: int,
        filter: Unset | shapes.BulkFilter | Mapping[str, Any] = UNSET,
        counted_up_to: Unset | int | None = UNSET,
        reason: Unset | str | None = UNSET,
        reason_code: Unset | shapes.DenialReason | str = UNSET,
    ) -> shapes.BulkDecision:
        """Call ``POST /v1/bulk-decisions`` (scope requests:read).

        Decide about every deletion request that fits a filter. Record the decision, to which the
        key needs the scope of the action as well. It covers the requests that fit now and no later
        ones; with `counted_up_to` of the preview they are those that were counted there. Nothing is
        decided about yet: call `:continue` until `ended_at` is set.
        """
        return self._call(
            Call[shapes.BulkDecision](
                "POST",
                "/v1/bulk-decisions",
                shapes.BulkDecision,
                body={
                    "action": action,
                    "filter": filter,
                    "matching": matching,
                    "counted_up_to": counted_up_to,
                    "reason": reason,
                    "reason_code": reason_code,
                },
            )
        )

    def continue_bulk(
        self,
        decision_id: str,
        *,
        limit: int | None = None,
    ) -> shapes.BulkDecision:
        """Call ``POST /v1/bulk-decisions/{decision_id}:continue`` (scope requests:read).

        Decide about the next requests of a bulk decision. Decide about the next requests, each by
        itself and under the name of the key that began it. A request that is refused, such as one
        under a legal hold or one that needs a second person, is listed and left as it is. May be
        repeated: nothing is decided about twice.
        """
        return self._call(
            Call[shapes.BulkDecision](
                "POST",
                "/v1/bulk-decisions/{decision_id}:continue",
                shapes.BulkDecision,
                {"decision_id": decision_id},
                query={"limit": limit},
            )
        )

    def get_bulk(
        self,
        decision_id: str,
    ) -> shapes.BulkDecision:
        """Call ``GET /v1/bulk-decisions/{decision_id}`` (scope requests:read).

        A bulk decision and its progress. Return the decision with how many requests it has decided
        about, and what was refused.
        """
        return self._call(
            Call[shapes.BulkDecision](
                "GET",
                "/v1/bulk-decisions/{decision_id}",
                shapes.BulkDecision,
                {"decision_id": decision_id},
            )
        )

    def readmit(
        self,
        *,
        subject_id: Unset | str = UNSET,
        dataset: Unset | str = UNSET,
        record_ids: Unset | Sequence[str] = UNSET,
    ) -> shapes.Readmitted:
        """Call ``POST /v1/suppressions:readmit`` (scope requests:approve).

        Readmit forgotten subjects or records to later ingests. Lift suppressions. What was
        forgotten stays forgotten; only later ingests may contain it again. A later deletion
        suppresses it again. May be repeated.
        """
        return self._call(
            Call[shapes.Readmitted](
                "POST",
                "/v1/suppressions:readmit",
                shapes.Readmitted,
                body={"subject_id": subject_id, "dataset": dataset, "record_ids": record_ids},
            )
        )
