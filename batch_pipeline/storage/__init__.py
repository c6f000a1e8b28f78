"""Object storage: where things lie, how they are read and written, and the inbox."""
