"""Run the command line: `python -m poolscope`."""

import sys

from poolscope.cli import main

sys.exit(main())
