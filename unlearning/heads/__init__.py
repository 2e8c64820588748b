"""Heads that are fitted in closed form from sums over rows, so that rows can be taken out exactly.

A head sees each row as a feature vector q on a grid. Of the training rows it keeps the sums
G = Σ q qᵀ and B = Σ q e_yᵀ (*statistics*); its weights are a function of these alone. Every partial
sum is a whole number of grid steps below 2^53 and therefore exact in float64, so neither the order
of additions and deletions nor the number of threads changes a bit.
"""
