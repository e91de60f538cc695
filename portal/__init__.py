"""portal: the one web door for people."""
