"""The command line: options, parsing, and the commands.

One rule: it is part of programs only.  So importing it has Python collect garbage after
so many new objects, not after 700: nearly all that a command loads stays until its end.
Repeated collections took a seventh of the computing of a short command (CPython 3.11,
measured).
"""

import gc

gc.set_threshold(50_000)  # new objects; some 10 MB
