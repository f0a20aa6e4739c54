"""From files of video and sound to batches of views."""
