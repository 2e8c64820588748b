"""A store in a bucket that speaks S3: every object is written once, by a create-only put.

``<prefix>/<kind>/<digest>/`` holds a blob in parts and, last of all, its manifest: a blob without a
manifest is a half upload and counts for nothing. ``<prefix>/arrays/<key>/`` holds what is not
secret of a dataset, ``<prefix>/shards/`` its rows, some thousand to a shard, each encrypted under a
data key of its own. The keys are kept elsewhere (``keys``): a row is erased by rewriting its shard
under a new key and destroying the old one, so that neither an old version of an object nor a copy
of the bucket gives it back.
"""
