"""A local web page that restores photographs. Uses `restoration` and below."""
