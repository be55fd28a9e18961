"""A local web page that restores photographs."""
