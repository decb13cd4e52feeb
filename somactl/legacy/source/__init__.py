"""Where the old service left its values: read by `migrate-json`, changed by what follows it up."""
