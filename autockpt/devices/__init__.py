"""Devices that a plan can be made for, whether or not they are here."""
