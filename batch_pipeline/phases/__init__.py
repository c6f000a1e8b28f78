"""The four phases of a batch as plain functions, in the order in which a batch lives through them."""
