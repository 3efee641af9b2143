"""A released table as one folder of vectors for other programs: what is written, in which numbers, with which error."""
