"""CND: an embarrassingly parallel search on a fleet of rented machines."""

import time

__version__ = "0.1.0"
# When this process began, on the monotonic clock, or a little later: it has computed
# for so long, and may have waited for the processor or the disk besides.
BEGAN = time.monotonic() - time.process_time()
