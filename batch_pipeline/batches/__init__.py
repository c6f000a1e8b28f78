"""Batches: their model, their states, and the ledger that stores them."""
