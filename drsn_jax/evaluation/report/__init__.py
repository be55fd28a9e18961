"""Reports as JSON, CSV, Markdown and HTML, with pictures. Uses all other parts of `evaluation`."""
