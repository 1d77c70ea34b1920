"""From features to boxes: forward, loss, decode."""
