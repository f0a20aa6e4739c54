"""Reads shards as batches of views: order, decoding, views, batches, workers."""
