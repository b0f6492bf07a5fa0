"""The models that a run is based on, and how they are loaded."""
