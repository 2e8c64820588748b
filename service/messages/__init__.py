"""Messages between a worker and its compute process.

One module for each operation has its request, its answer and its progress; ``parts`` has what
several of them share, ``failures`` the replies in place of an answer, and ``wire`` converts each to
a line of JSON and back. Nothing here imports other packages of ours, so that both sides can use it.
"""
