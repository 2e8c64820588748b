"""A store in a directory: files are flushed before they count and overwritten before removal.

``<root>/<kind>/<digest>/`` holds a blob, ``<root>/arrays/<key>/`` the rows of a dataset,
``<root>/uploads/`` what is being received.
"""
