"""Object storage: S3 access, keys and presigned URLs."""
