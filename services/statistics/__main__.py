"""`python -m services.statistics`."""

import sys

from services.statistics.app import main

sys.exit(main())
