"""Builds shards from files of video and sound: catalogs, decoding, workers, reports."""
