"""``python -m introprior``: the command ``introprior``."""

import sys

from introprior.cli import main

sys.exit(main())
