"""Payloads: reading uploads of any format as columns of text, and writing the artifacts of a batch."""
