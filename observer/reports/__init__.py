"""The streams of a day -> its report; snapshots of the stats, archived."""
