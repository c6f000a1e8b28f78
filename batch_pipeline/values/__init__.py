"""Value kernels: each checks one kind of value, or brings it to its canonical form, a whole column at a time.

A kernel is a function from a pyarrow text column to a column of the same length. Fields, resources and error codes
do not belong here: the modules of the resources say which field follows which rule. Missing values are null in the
input and in the result. The input is trimmed and in NFC, as `text.clean_texts` returns it.

Where a rule needs a slow library, a vectorised check that is strictly narrower accepts most values, and the
library decides on the other distinct values (`masks.decide_distinct`).
"""
