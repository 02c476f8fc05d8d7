"""CND: an embarrassingly parallel search on a fleet of rented machines."""

__version__ = "0.1.0"
