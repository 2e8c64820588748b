"""The API process: ``uvicorn service.main:create_app --factory``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib import metadata

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from sqlalchemy import Engine
from starlette.routing import BaseRoute

from models_store import open_store
from service import logs, tracing, wake
from service.api import access, auth, limits, metrics, openapi, problems, readiness
from service.api.recorder import Recorder
from service.api.routes import (
    aliases,
    appends,
    audit,
    audit_log,
    batches,
    bulk_decisions,
    checkpoints,
    datasets,
    decisions,
    deletion_requests,
    deletion_requests_schemas,
    encoders,
    health,
    inspections,
    legal_holds,
    methods,
    models,
    opendsr,
    record_lists,
    suppressions,
    texts,
    tokenizers,
    training_runs,
    version_imports,
    versions,
    webhooks,
    withdrawals,
)
from service.api.routes import metrics as metrics_route
from service.console import documents, pages
from service.console.routes import PAGES
from service.ledger.audit import log, model_signing, signing
from service.ledger.database import db
from service.ledger.database.connections import Limits
from service.ledger.opendsr.identities import Ingested
from service.ledger.opendsr.processor import Processor
from service.ledger.selection.digests import Digester
from service.settings import Settings

OPEN = (health.router, audit.open_router)
SECURED = (
    deletion_requests.verb_router,
    deletion_requests.router,
    legal_holds.router,
    decisions.router,
    bulk_decisions.verb_router,
    bulk_decisions.router,
    suppressions.router,
    datasets.router,
    appends.router,
    inspections.router,
    record_lists.router,
    texts.router,
    tokenizers.router,
    encoders.router,
    models.router,
    training_runs.router,
    aliases.router,
    batches.router,
    checkpoints.router,
    version_imports.router,
    versions.router,
    withdrawals.router,
    webhooks.router,
    methods.router,
    audit.router,
    audit_log.router,
    metrics_route.router,
)


#: FastAPI's own telemetry has paths, addresses and the messages of errors, which may name a person;
#: ``service.tracing`` has templates and numbers.
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "auto_configure": False,
}


def create_app(settings: Settings | None = None, *, engine: Engine | None = None) -> FastAPI:
    """Return the application for these settings, by default those of the environment.

    ``engine``: on the settings' database, in place of a new one.
    """
    settings = settings or Settings()
    _log_without_urls(settings)
    tracing.start("unlearn-api")
    app = FastAPI(
        title="Unlearning service",
        version=metadata.version("unlearn"),
        lifespan=_lifespan,
        # The usual pages load scripts from other hosts; the console has one of its own at /docs.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        routes=list(_routes()),
        telemetry=_NO_TELEMETRY,
    )
    _furnish(app, settings, engine)
    app.add_middleware(
        access.Access,
        answered=app.state.http_requests.answered,
        max_body_bytes=settings.max_body_bytes,
        max_upload_bytes=settings.max_upload_bytes,
    )
    problems.install(app)
    openapi.install(app, problems.Problem, deletion_requests_schemas.NewBatchItem)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Return the routes, which are the same for any settings.

    FastAPI works out an included route when a request first passes it and keeps the result with
    the route: the applications of one process share them.
    """
    whole = APIRouter()
    for router in OPEN:
        whole.include_router(router, responses=problems.responses(400, 422, 500))
    for router in SECURED:
        whole.include_router(router, responses=problems.SECURED)
    for prefix in opendsr.PREFIXES:
        for made, responses in (
            (opendsr.open_router(prefix), problems.responses(400, 422, 500)),
            (opendsr.router(prefix), problems.SECURED),
        ):
            shown = prefix == opendsr.PREFIXES[0]
            whole.include_router(made, responses=responses, include_in_schema=shown)
    for router in PAGES:
        whole.include_router(router)
    return tuple(whole.routes)


def _furnish(app: FastAPI, settings: Settings, engine: Engine | None) -> None:
    # Refuse to start with what could not be answered with.
    Processor.from_settings(settings)
    Ingested.parse(settings.opendsr_identities)
    engine = engine or db.engine(settings.database, limits=Limits.of_requests(settings))
    sessions = db.session_factory(engine)
    digester = Digester.from_settings(settings)
    app.state.settings = settings
    app.state.http_requests = metrics.Requests()
    app.state.audit_lines = metrics.Lines()
    app.state.engine = engine
    app.state.store = open_store(
        settings.store_location,
        scratch=settings.scratch,
        timeout_seconds=settings.store_timeout_seconds,
    )
    app.state.sessions = sessions
    app.state.digester = digester
    app.state.signer = signing.Signer.from_settings(settings)
    app.state.model_signer = model_signing.ModelSigner.from_seed(settings.signing_seed)
    app.state.model_signing_keys = model_signing.published(settings)
    app.state.pages = documents
    app.state.log = log.Log()
    app.state.wake = wake.sender(settings)
    app.state.keys = auth.KeyCache(sessions)
    app.state.checks = readiness.Checks(settings, app.state.store, engine)
    app.state.limiter = limits.Limiter(settings.requests_per_minute, settings)
    app.state.previews = limits.Limiter(settings.previews_per_minute, settings, what="previews")
    app.state.sign_ins = limits.Limiter(
        settings.sign_ins_per_minute, settings, what="failed sign-ins", whose="this address"
    )
    app.state.recorder = Recorder(sessions, digester, app.state.wake, max_queue=settings.max_queue)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # For what was recorded just before an earlier process died. It also loads the transport now
    # rather than during a request.
    app.state.wake.deletions()
    _prepare(app)
    yield
    app.state.recorder.close()
    app.state.wake.close()
    app.state.checks.close()
    app.state.engine.dispose()
    tracing.stop()


def _prepare(app: FastAPI) -> None:
    """Do what the first request would wait for: compile the templates, work out the routes.

    FastAPI works out an included route when it is first compared with a path.
    """
    pages.prepare()
    nowhere = {"type": "http", "method": "GET", "path": "/", "root_path": "", "headers": []}
    for route in app.routes:
        route.matches(nowhere)


def _log_without_urls(settings: Settings) -> None:
    # uvicorn's access log prints whole URLs; ``access`` writes one without them.
    logging.getLogger("uvicorn.access").disabled = True
    logs.configure(settings.log_format, "service", "opentelemetry")
    logs.restyle(settings.log_format, "uvicorn")
