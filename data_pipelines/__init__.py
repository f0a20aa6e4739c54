"""Data: builds data sets from files of video and sound, and reads them as batches of views."""
