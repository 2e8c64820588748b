"""The console's pages and forms, a module for each noun."""

from service.console.routes import (
    audit,
    datasets,
    keys,
    models,
    new_request,
    operations,
    reference,
    requests,
    signing_in,
    static,
)

#: Routers of every page; the page of a new request comes before that of any other.
PAGES = (
    signing_in.router,
    new_request.router,
    requests.router,
    models.router,
    datasets.router,
    operations.router,
    keys.router,
    audit.router,
    reference.router,
    static.router,
)
