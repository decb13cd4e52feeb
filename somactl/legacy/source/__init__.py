"""Where the old service left its values: read by `migrate-json`, and changed by its `--finalize` alone."""
