"""Programs that run on instances: Python 3.6, the standard library and `cnd.pow`."""
