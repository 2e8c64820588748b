"""Every unlearning method against retraining, on CIFAR-10: the walk is told in ``__main__``.

``settings`` says what is asked, ``problem`` turns it into rows and networks, ``bank`` trains what
is compared with, ``runs`` runs the methods, ``measuring`` turns scores into numbers, ``ranking``
ranks them, ``findings`` holds all of it, ``targets`` says what is reached, ``report`` writes it
down and ``plots`` and ``space`` draw it.
"""
