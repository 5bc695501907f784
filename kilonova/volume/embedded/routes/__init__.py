"""The Block Storage v3 API, one noun per file."""
