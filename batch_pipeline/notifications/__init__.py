"""Tells others of batches: webhooks of organizations, and alerts to the people who run the system."""
