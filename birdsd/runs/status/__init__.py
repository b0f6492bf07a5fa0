"""How a run is, why, and where its time went."""
