"""The console's pages and forms, a module for each noun."""

from service.console.routes import new_request, requests, signing_in, static

#: Routers of every page; the page of a new request comes before that of any other.
PAGES = (
    signing_in.router,
    new_request.router,
    requests.router,
    static.router,
)
