"""How a run survives: its folder on disk, its steps, its history."""
