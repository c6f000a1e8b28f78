"""Records: one module per resource, and the kinds of fields and rules they are made of."""
