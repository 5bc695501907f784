"""The Glance v2 API of the embedded image service: one noun per file."""
