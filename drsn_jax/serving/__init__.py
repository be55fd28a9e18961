"""A local web page for restoring photographs. Uses `restoration` and below."""
