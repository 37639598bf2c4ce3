"""`python -m services.ingest`."""

import sys

from services.ingest.app import main

sys.exit(main())
