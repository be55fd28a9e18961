"""`python -m drsn_jax` is `drsn-jax`."""

import sys

from drsn_jax.cli import main

sys.exit(main())
