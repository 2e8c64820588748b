"""A store in a bucket that speaks S3; every object is written once, by a create-only put.

``<prefix>/<kind>/<digest>/`` holds a blob in parts and, written last, its manifest: a blob without
a manifest is an incomplete upload and is ignored. ``<prefix>/arrays/<key>/`` holds the facts of a
dataset that are not secret, ``<prefix>/shards/`` its rows, some thousand per shard, each shard
encrypted under a data key of its own. The keys are stored elsewhere (``data_keys``): a row is
erased by rewriting its shard under a new key and destroying the old key, so that it cannot be
recovered from an old version of an object or a copy of the bucket.
"""
