"""Folders at URLs of object stores, read and written through obstore (extra `cloud`)."""
