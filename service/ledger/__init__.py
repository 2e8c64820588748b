"""The ledger: rows and their allowed changes.

Every function takes a ``session`` first and never commits; one function is one allowed change of
state and appends its audit event in the same transaction.
"""
