"""The process that computes: the only one that loads torch.

A worker thread owns one such process, sends it one request at a time as a line of JSON, and reads
progress and the answer as lines of JSON. The process never sees the database and never decides:
it reads arrays and checkpoints from the store, writes new ones there, and answers with digests
and numbers. Killing it at any moment loses nothing but time.
"""
