"""`python -m services.access`."""

import sys

from services.access.app import main

sys.exit(main())
