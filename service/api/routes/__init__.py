"""Endpoints, a module for each noun."""
