"""How good embeddings are: recovery of what a synthetic world planted, and labels of real users from frozen embeddings.

Only this package imports scikit-learn. Nothing here is read by a stage: what is measured never flows back into training.
"""
