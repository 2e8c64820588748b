"""What a deletion costs: the update and a retrain, and what each reaches.

    python -m benchmarks.deletion --data FOLDER

``prepared``: the trained networks; ``bench``: what is measured of a model and its updates;
``streams``: many batches in a row; ``table``: a fifth of a table that a network has learned by
heart; ``report``: what is written.
"""
