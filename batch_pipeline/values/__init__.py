"""Value kernels: each checks one kind of value, or brings it to its canonical form, a whole column at a time.

Here belong functions from a pyarrow text column to a column of the same length, free of fields, resources and
error codes: which field follows which rule is the business of the resources' modules. Missing values are null
on both sides. Texts come as `text.clean_texts` leaves them: trimmed and NFC.

Where a rule needs a slow library, a vectorised check that is strictly narrower accepts what it can, and the
library decides on the distinct values that are left (`masks.decide_distinct`).
"""
