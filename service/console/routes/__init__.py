"""The console's pages and forms, a module for each noun."""

from service.console.routes import requests, signing_in, static

#: Routers of every page.
PAGES = (
    signing_in.router,
    requests.router,
    static.router,
)
