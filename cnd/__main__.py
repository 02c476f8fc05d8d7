"""`python -m cnd`: the program, whatever its script is called or where it lies.

One rule: no code comes from the working folder, which `python -m` searches first.
"""

import os
import sys

if sys.path and sys.path[0] in ("", os.getcwd()):
    del sys.path[0]

from cnd.tasks import main  # what it imports must not be found there

if __name__ == "__main__":
    main()
