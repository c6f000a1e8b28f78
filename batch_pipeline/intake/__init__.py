"""Intake: batches from inbox files, from files sent to upload URLs, and from the rejected items of another batch."""
