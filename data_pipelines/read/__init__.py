"""From shards to batches of views: order, decoding, views, batches, workers."""
