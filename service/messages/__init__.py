"""What a worker and its compute process say to each other.

One module for each operation has its request, its answer and its progress; ``parts`` has what
several of them share, ``failures`` what is said in place of an answer, and ``wire`` turns each into
a line of JSON and back. Nothing here imports anything else of ours, so that both sides can.
"""
