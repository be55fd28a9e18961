"""What a release is checked by: its tag, its version and its changelog say the same."""
