"""The check of a release: its tag, its version and its changelog must agree."""
