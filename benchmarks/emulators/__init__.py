"""Emulators of Amazon S3 and Google Cloud Storage on this machine, and their faults."""
