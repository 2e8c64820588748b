"""The console's pages and forms, a module for each noun."""

from service.console.routes import signing_in, static

#: Routers of every page. An order matters where a path may be read as two: the first one wins.
PAGES = (
    signing_in.router,
    static.router,
)
