"""Every stream and bucket -> files, proved by a drill, and back again."""
