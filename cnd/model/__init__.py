"""Frozen values and pure logic: no clock, no disk, no network."""
