"""The compute process: the only process that loads torch.

A worker thread owns one such process, sends it one request at a time, and reads progress and the
answer: lines of JSON, whose fields are those of ``service.messages``. The process never sees the
database and makes no decision about a batch: it reads arrays and checkpoints from the store, writes
new ones there, and answers with digests and numbers. It may be killed at any moment; only computing
time is lost.
"""
