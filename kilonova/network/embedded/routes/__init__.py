"""The Neutron v2.0 API: one noun per file, on one engine for attributes, lists and policy."""
