"""Bridges to other programs: each is imported only by whoever asks for it."""
