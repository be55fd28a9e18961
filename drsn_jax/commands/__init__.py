"""The verbs of the command line, one module each: what it declares and what it does."""
