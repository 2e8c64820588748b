"""The console's pages and forms, a module for each noun."""

from service.console.routes import (
    audit,
    bulk,
    datasets,
    keys,
    models,
    new_request,
    operations,
    reference,
    requests,
    signing_in,
    static,
    webhooks,
)

#: Routers of every page; pages of a new request and of many come before that of one.
PAGES = (
    signing_in.router,
    new_request.router,
    bulk.router,
    requests.router,
    models.router,
    datasets.router,
    operations.router,
    webhooks.router,
    keys.router,
    audit.router,
    reference.router,
    static.router,
)
