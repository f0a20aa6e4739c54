"""The format of shards: TFRecord framing, records, metadata, storage."""
