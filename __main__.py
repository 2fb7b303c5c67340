"""`python -m code_rlm`: the command `code-rlm`."""

import sys

from code_rlm.cli import main

if __name__ == "__main__":
    sys.exit(main())
