"""`python -m services.pseudonym`."""

import sys

from services.pseudonym.app import main

sys.exit(main())
