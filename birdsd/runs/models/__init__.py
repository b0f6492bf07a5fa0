"""Which models a run stands on, and how they are loaded."""
