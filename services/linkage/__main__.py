"""`python -m services.linkage`."""

import sys

from services.linkage.app import main

sys.exit(main())
