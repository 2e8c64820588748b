"""The process that computes: the only one that loads torch.

A worker thread owns one such process, sends it one request at a time, and reads progress and the
answer: lines of JSON, whose fields are those of ``service.messages``. The process never sees the
database and never decides: it reads arrays and checkpoints from the store, writes new ones there,
and answers with digests and numbers. Killing it at any moment loses nothing but time.
"""
