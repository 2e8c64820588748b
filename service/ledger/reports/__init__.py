"""Measurements of versions, audit reports, and who may read which of their figures."""
