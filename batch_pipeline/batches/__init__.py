"""Batches: what they are, their states, and the ledger that keeps them."""
