"""Signed documents as pages of paper: each made from the document's bytes alone, in one file.

A page says no more than its document, contains the signed bytes, loads nothing, and runs no script.
"""

from service.api.negotiation import Page
from service.console.documents.receipts import page as receipt
from service.console.documents.reports import page as report

__all__ = ["Page", "receipt", "report"]
