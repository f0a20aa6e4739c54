"""From files of video and sound to shards: catalogs, decoding, workers, reports."""
