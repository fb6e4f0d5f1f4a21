"""mabeam: multi-agent coordination that can be trusted and proved."""
