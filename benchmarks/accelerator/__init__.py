"""Measurements on an accelerator, with one command (`__main__`)."""
