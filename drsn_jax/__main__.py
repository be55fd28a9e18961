"""`python -m drsn_jax` is `drsn-jax`."""

import sys

from drsn_jax.cli.main import main

sys.exit(main())
