"""The shards of a run, and their making from a folder of videos."""
