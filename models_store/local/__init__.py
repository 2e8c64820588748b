"""A store in a directory: files that are flushed before they count and overwritten before they go.

``<root>/<kind>/<digest>/`` holds a blob, ``<root>/arrays/<key>/`` the rows of a dataset,
``<root>/uploads/`` what is being received.
"""
