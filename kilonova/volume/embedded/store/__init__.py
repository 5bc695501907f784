"""Questions to the volume database, one noun per file."""
